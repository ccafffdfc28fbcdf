"""Receiver in a function: it answers, works while it answers, and needs nothing that stays but a bucket, or not even
that.

    from receiver.serverless import asgi                       Cloud Run, Vercel, anything that serves ASGI
    app = asgi(database="s3://acme/.receiver", to=["s3://acme/pictures"])

    from receiver.serverless import aws                        AWS Lambda
    http, tick = aws(database="s3://acme/.receiver", to=["s3://acme/pictures"])

    from receiver.serverless import open_courier               submit where there is no journal
    async with open_courier(database="none", public_url="https://…") as courier:
        await courier.submit(build("imagine", prompt="a paper boat --v 6.1"))
"""

from receiver.serverless.application import Application, asgi
from receiver.serverless.aws import aws
from receiver.serverless.direct import open_courier

__all__ = ["Application", "asgi", "aws", "open_courier"]
