-- name: lock_engines
-- Who enters stands in line; who beats does not.
SELECT pg_advisory_xact_lock(hashtext('receiver.engines'));

-- name: list_engines
SELECT owner, role, host, version, store,
    extract(epoch FROM clock_timestamp() - beat)::float8 AS seconds,
    EXISTS (
        SELECT FROM receiver.leases
        WHERE leases.owner = engines.owner AND name = 'leader' AND expires > clock_timestamp()
          AND expires < clock_timestamp() + :lease_seconds::float8 * interval '2 seconds') AS leads
FROM receiver.engines
WHERE beat BETWEEN clock_timestamp() - :dead_seconds::float8 * interval '1 second'
    AND clock_timestamp() + :dead_seconds::float8 * interval '1 second'
ORDER BY leads DESC, started, owner;

-- name: enter
INSERT INTO receiver.engines (owner, role, host, version, store)
VALUES (:owner, :role, :host, :version, :store)
ON CONFLICT (owner) DO UPDATE SET role = excluded.role, store = excluded.store, beat = clock_timestamp();

-- name: beat
-- Whoever has not been buried yet lives on: what it runs has not been freed. A database that was away for long, or whose
-- clock was set, makes all seem dead at once: who notices that by its own last sign calls a truce, in which nobody is
-- buried and each has its turn.
WITH truce AS (
    INSERT INTO receiver.leases (name, owner, expires)
    SELECT 'truce', owner, clock_timestamp() + :truce_seconds::float8 * interval '1 second' FROM receiver.engines
    WHERE owner = :owner
      AND beat NOT BETWEEN clock_timestamp() - :late_seconds::float8 * interval '1 second'
        AND clock_timestamp() + :late_seconds::float8 * interval '1 second'
    ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires = excluded.expires
)
UPDATE receiver.engines SET beat = clock_timestamp() WHERE owner = :owner;

-- name: leave
DELETE FROM receiver.engines WHERE owner = :owner;

-- name: who_leads
-- A lease that ends much later than any may was taken before the clock was set back: its holder has taken another one
-- since, or is dead.
SELECT owner FROM receiver.leases
WHERE name = 'leader' AND expires > clock_timestamp()
  AND expires < clock_timestamp() + :lease_seconds::float8 * interval '2 seconds';

-- name: lead
INSERT INTO receiver.leases (name, owner, expires)
VALUES ('leader', :owner, clock_timestamp() + :lease_seconds::float8 * interval '1 second')
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, expires = excluded.expires
WHERE leases.owner = excluded.owner OR leases.expires < clock_timestamp()
  OR leases.expires > clock_timestamp() + :lease_seconds::float8 * interval '2 seconds';

-- name: lead_no_more
DELETE FROM receiver.leases WHERE name = 'leader' AND owner = :owner;

-- name: bury_engines
-- Those that are taken for dead; none of them can beat any more. A beat that is under way is waited for, and counts.
-- Not in a truce, nor where one will be called as soon as :owner beats. (One that ends much later than any may was called
-- before the clock was set back.)
DELETE FROM receiver.engines
WHERE owner <> :owner
  AND beat NOT BETWEEN clock_timestamp() - :dead_seconds::float8 * interval '1 second'
    AND clock_timestamp() + :dead_seconds::float8 * interval '1 second'
  AND NOT EXISTS (
      SELECT FROM receiver.engines AS mine
      WHERE mine.owner = :owner
        AND mine.beat NOT BETWEEN clock_timestamp() - :late_seconds::float8 * interval '1 second'
          AND clock_timestamp() + :late_seconds::float8 * interval '1 second')
  AND NOT EXISTS (
      SELECT FROM receiver.leases
      WHERE name = 'truce' AND expires > clock_timestamp()
        AND expires < clock_timestamp() + :truce_seconds::float8 * interval '2 seconds');

-- name: lock_left
-- What runs for nobody. One look at running rows only.
SELECT * FROM receiver.deliveries
WHERE status = 'running' AND owner <> :owner
  AND NOT EXISTS (SELECT FROM receiver.engines WHERE engines.owner = deliveries.owner)
ORDER BY id || '' FOR UPDATE;

-- name: any_left
-- Whether there is something to do for the next two, without a transaction: the leader asks often.
SELECT
    EXISTS (
        SELECT FROM receiver.engines
        WHERE owner <> :owner
          AND beat NOT BETWEEN clock_timestamp() - :dead_seconds::float8 * interval '1 second'
            AND clock_timestamp() + :dead_seconds::float8 * interval '1 second')
    OR EXISTS (
        SELECT FROM receiver.deliveries
        WHERE status = 'running' AND owner <> :owner
          AND NOT EXISTS (SELECT FROM receiver.engines WHERE engines.owner = deliveries.owner)) AS any_left;
