"""Receiver in a function: it works while it answers a request, and keeps its state in a bucket or nowhere.

from receiver.serverless import asgi                       Cloud Run, Vercel, any platform that serves ASGI
app = asgi(database="s3://acme/.receiver", to=["s3://acme/pictures"])

from receiver.serverless import aws                        AWS Lambda
http, tick = aws(database="s3://acme/.receiver", to=["s3://acme/pictures"])

    from receiver.serverless import open_stateless             submit where there is no journal
    async with open_stateless(database="none", public_url="https://…") as stateless:
        await stateless.submit(build("imagine", prompt="a paper boat --v 6.1"))
"""

from receiver.serverless.application import Application, asgi, aws, open_stateless

__all__ = ["Application", "asgi", "aws", "open_stateless"]
