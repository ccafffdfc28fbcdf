"""Peers of Receiver, each with the same work: take a callback, answer when it is queued, and write a file for it."""
