"""What many write themselves: a row in SQLite by SQLAlchemy, and a loop that works on rows."""

from __future__ import annotations

import json
import time
from typing import Any

from sqlalchemy import create_engine, event, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from peers.effect import FOLDER, effect
from peers.web import serve


class Base(DeclarativeBase):
    pass


class Callback(Base):
    __tablename__ = "callbacks"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    done: Mapped[bool] = mapped_column(default=False, index=True)


engine = create_engine(f"sqlite:///{FOLDER / 'by_hand.db'}", connect_args={"timeout": 30})


@event.listens_for(engine, "connect")
def connected(connection: Any, record: Any) -> None:
    connection.execute("PRAGMA journal_mode = WAL")


def queue(task: dict[str, Any]) -> None:
    with Session(engine) as session:
        session.add(Callback(body=json.dumps(task)))
        session.commit()


def web() -> None:
    Base.metadata.create_all(engine)
    serve(queue)


def work() -> None:
    while True:
        with Session(engine) as session:
            rows = session.scalars(select(Callback).where(Callback.done.is_(False)).limit(50)).all()
            for row in rows:
                effect(json.loads(row.body)["id"])
            session.execute(update(Callback).where(Callback.id.in_([row.id for row in rows])).values(done=True))
            session.commit()
        if not rows:
            time.sleep(0.05)
