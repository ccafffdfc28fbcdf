"""The s3 handler: pictures in an object store, by `s3://`, `gs://` and `az://` URLs."""

from receiver.handlers.s3.handler import S3Handler

__all__ = ["S3Handler"]
