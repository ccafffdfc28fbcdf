"""Buckets of S3 (or what speaks it), Google Cloud Storage and Azure: how they are named and opened, and what their
refusals mean. Only `opening` needs obstore (extra `s3`)."""

from receiver.buckets.answers import Fate, Refusal, explain
from receiver.buckets.options import BucketOptions, Service, read_url

__all__ = ["BucketOptions", "Fate", "Refusal", "Service", "explain", "read_url"]
