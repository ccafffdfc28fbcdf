"""Receiver: submit a Midjourney task through CometAPI, and every result reaches every place you named."""
