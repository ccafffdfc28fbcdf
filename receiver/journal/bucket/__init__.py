"""The journal in a bucket (extra `s3`): conditional puts are its transactions, and nothing else is needed.

One object is one submission with all that hangs on it: its row, callbacks, events, deliveries, attempts. So what is one
transaction in a database is one compare-and-swap here (`If-Match`): a callback, the event it makes, the deliveries that
owes and the older ones it cancels are written together or not at all, one after the other runs (submission,
destination), and a fact that is there already is a duplicate. Nothing has to be repaired between an event and its row,
as two objects would need it. An object is a few kilobytes, gzipped; callbacks that make it large lie apart.

    submissions/ID.json.gz       the submission; of its id each digit is turned over, so that the newest is listed first
    due/…, dead/…                marks: empty objects whose names say when somebody has to look; see `agenda`
    once/DIGEST                  who has a name under which a submission exists once; see `naming`
    tasks/TASK/ID                leads from a task to its submission
    children/PARENT/ID           leads to follow-ups
    files/DIGEST/ID              which file of the media store is needed
    leftovers/DIGEST             files to be removed
    callbacks/ID/NUMBER          the body of a callback, where it lies apart
    destinations, troubles       how they do; changed by compare-and-swap
    engines/OWNER, leader        signs of life, and who leads; see `engines`
    clock, check, format         for the store's time, for `check`, and what was found out about the store
    purged                       when what was written last has no callbacks left

Order of puts, and what a crash leaves between any two of them:

    1. what leads to the document: marks, indexes, bodies that lie apart. If no 2 follows, these lead nowhere: whoever
       follows them sees that, and sweeps them away.
    2. the document. This is the commit: all of it counts from now on.
    3. further submissions that came of the change. The document names them, and a mark that is due at once leads to it,
       until they are written: each under its own id and name, so that it is written once.
    4. away with marks that are not needed any more. One that stays is not named by the document, and is swept away.

Nothing is acknowledged before 2. A put whose answer was lost, or is 500 or 412 although it was done, is known by the
nonce in the object. Erasing empties the document first, so that nobody can write it any more, then removes it.

Times of day are the callers'; who lives and who leads is counted in the store's own time (`Last-Modified`).
`tests/test_journal_bucket.py` ends the process before each write of a whole life in turn, and stands a failing store in
front of the real one.
"""

from __future__ import annotations

from receiver.journal.bucket.journal import BucketJournal
from receiver.journal.bucket.opening import LOOK_SECONDS, open_bucket, over

__all__ = ["LOOK_SECONDS", "BucketJournal", "open_bucket", "over"]
