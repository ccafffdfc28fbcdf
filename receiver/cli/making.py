"""The other ways to make something: `blend`, `describe`, `shorten`, `video`, `edits`, `swap`, and `upload`."""

from __future__ import annotations

from typing import Annotated

import typer

from receiver.cli.options import AsJSON, Bot, Filter, Label, Speed, State, To, Wait, bot_type, options
from receiver.cli.options import account_filter as read_filter
from receiver.cli.output import print_json, say
from receiver.cli.process import run, settings_for
from receiver.cli.session import Session
from receiver.provider import Request, requests
from receiver.runtime import open_runtime
from receiver.submissions import Options

Picture = Annotated[str, typer.Argument(help="A picture: a file, a link, or a data URI.")]
Pictures = Annotated[list[str], typer.Argument(help="Pictures: files or data URIs.")]


def blend(
    pictures: Pictures,
    dimensions: Annotated[str | None, typer.Option(help=f"Proportions: {', '.join(requests.DIMENSIONS)}.")] = None,
    bot: Bot = None,
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    as_json: AsJSON = False,
) -> None:
    """Make one picture of 2 to 5."""
    request = requests.blend(pictures, dimensions=dimensions, bot_type=bot_type(bot))
    _submit(request, options(speed=speed, label=label, state=state, to=to), wait=wait, as_json=as_json)


def describe(
    picture: Picture,
    bot: Bot = None,
    language: Annotated[str | None, typer.Option(help="Of the answer, where the provider knows it.")] = None,
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    as_json: AsJSON = False,
) -> None:
    """Find four prompts for a picture. `receiver action ID 1️⃣` then draws the first."""
    request = requests.describe(picture, bot_type=bot_type(bot), language=language)
    _submit(request, options(speed=speed, label=label, state=state, to=to), wait=wait, as_json=as_json)


def shorten(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    bot: Bot = None,
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    as_json: AsJSON = False,
) -> None:
    """Find shorter prompts that say the same."""
    request = requests.shorten(prompt, bot_type=bot_type(bot))
    _submit(request, options(speed=speed, label=label, state=state, to=to), wait=wait, as_json=as_json)


def video(
    image: Annotated[str | None, typer.Argument(help="The first picture: a file, a link, or a data URI.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What happens in it.")] = None,
    motion: Annotated[str, typer.Option(help=f"How much moves: {' or '.join(requests.MOTIONS)}.")] = "low",
    end_image: Annotated[str | None, typer.Option(help="The last picture.")] = None,
    loop: Annotated[bool | None, typer.Option(help="Whether the end leads to the start.")] = None,
    video_type: Annotated[str | None, typer.Option(help=f"Size: {' or '.join(requests.VIDEO_TYPES)}.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="How many videos: 1, 2 or 4.")] = None,
    action: Annotated[str | None, typer.Option(help="What to do with an earlier video: extend.")] = None,
    index: Annotated[int | None, typer.Option(help="Which of its videos: 0 to 3.")] = None,
    task_id: Annotated[str | None, typer.Option("--task", help="The task id of that video.")] = None,
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    as_json: AsJSON = False,
) -> None:
    """Make videos from a picture, or go on from earlier ones."""
    request = requests.video(
        image,
        prompt=prompt,
        motion=motion,
        action=action,
        index=index,
        task_id=task_id,
        end_image=end_image,
        loop=loop,
        video_type=video_type,
        batch_size=batch_size,
    )
    _submit(request, options(speed=speed, label=label, state=state, to=to), wait=wait, as_json=as_json)


def edits(
    prompt: Annotated[str, typer.Argument(help="What the picture should become.")],
    image: Annotated[str, typer.Option(help="The picture: a file, a link, or a data URI.")],
    mask: Annotated[str | None, typer.Option(help="Where to repaint: white; black stays.")] = None,
    account_filter: Filter = None,
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    as_json: AsJSON = False,
) -> None:
    """Repaint a picture of your own."""
    request = requests.edits(prompt, image, mask=mask, account_filter=read_filter(account_filter))
    _submit(request, options(speed=speed, label=label, state=state, to=to), wait=wait, as_json=as_json)


def swap(
    source: Annotated[str, typer.Argument(help="The picture with the face: a file, a link, or a data URI.")],
    target: Annotated[str, typer.Argument(help="The picture that gets it.")],
    wait: Wait = False,
    speed: Speed = None,
    label: Label = None,
    state: State = None,
    to: To = None,
    as_json: AsJSON = False,
) -> None:
    """Put a face into another picture."""
    request = requests.swap(source, target)
    _submit(request, options(speed=speed, label=label, state=state, to=to), wait=wait, as_json=as_json)


def upload(pictures: Pictures, account_filter: Filter = None, as_json: AsJSON = False) -> None:
    """Put pictures where prompts can point to them.

    Prints their links.
    """
    request = requests.upload(pictures, account_filter=read_filter(account_filter))
    urls = run(_upload(request))
    if as_json:
        print_json({"urls": urls})
    else:
        for url in urls:
            say(url)


async def _upload(request: Request) -> list[str]:
    async with open_runtime(settings_for(quiet=True)) as runtime:
        return await runtime.submissions.upload(request)


def _submit(request: Request, chosen: Options, *, wait: bool, as_json: bool) -> None:
    Session(as_json=as_json).request(request, chosen, wait=wait)
