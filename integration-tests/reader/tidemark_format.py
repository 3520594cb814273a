"""How values and documents of a Tidemark repository are written, from docs/repository-format.md."""

import json
import re

FORMAT = 1
U32, U64 = 2**32 - 1, 2**64 - 1
PARTITION = re.compile(r"0|[1-9][0-9]*")
DIRECTORY = re.compile(r"([0-9]{10}|[1-9][0-9]{10,19})-([0-9]{20})_([0-7][0-9A-HJKMNP-TV-Z]{25})")
FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
HEX_32, HEX_64 = re.compile(r"[0-9a-f]{32}"), re.compile(r"[0-9a-f]{64}")
NODE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class Fault(Exception):
    """Something is wrong with an object; says which one, and under which word."""

    def __init__(self, kind, key, detail):
        super().__init__(f"{kind}: {key}: {detail}")
        self.kind, self.key, self.detail = kind, key, detail

    def json(self):
        return {"kind": self.kind, "key": self.key, "detail": self.detail}


# Kinds of values: each of these takes a value and raises ValueError when it is not one of its kind.


def number(most, least=0):
    def check(value):
        # JSON's true and false are no numbers, though Python's are.
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"{value!r} is not a whole number from {least} to {most}")

    return check


def matching(pattern):
    def check(value):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{value!r} does not match {pattern.pattern}")

    return check


def word(*words):
    def check(value):
        if value not in words or not isinstance(value, str):
            raise ValueError(f"{value!r} is none of {', '.join(words)}")

    return check


def text(value):
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")


def list_of(item, least=0, most=None):
    def check(value):
        if not isinstance(value, list) or len(value) < least or (most is not None and len(value) > most):
            raise ValueError(f"not a list of {least} or more")
        for element in value:
            item(element)

    return check


def record(fields, optional=None, added=None):
    """An object with these fields. `optional` may be null or left out; `added` came later and may be left out.
    Fields that are not known are passed over."""
    optional, added = optional or {}, added or {}

    def check(value):
        if not isinstance(value, dict):
            raise ValueError(f"{value!r} is not an object")
        for name in fields:
            if name not in value:
                raise ValueError(f"the field {name!r} is missing")
        for name, kind in {**fields, **optional, **added}.items():
            if name not in value or (name in optional and value[name] is None):
                continue
            try:
                kind(value[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

    return check


COUNT, BYTES, LSN = number(U32), number(U64), number(U64)
HASH, ULID, NODE_ID, TIME = matching(HEX_64), matching(ID), matching(NODE), matching(MOMENT)
CLUSTER = record({"name": text, "fingerprint": matching(HEX_32)})
INCARNATION = record({"generation": number(U64, 1), "id": matching(HEX_32)})
ROLE = word("leader", "follower")


def incarnations(value):
    if not isinstance(value, dict):
        raise ValueError("not an object")
    for name, incarnation in value.items():
        matching(PARTITION)(name)
        INCARNATION(incarnation)


IDENTITY = record(
    {
        "cluster": CLUSTER,
        "partitions": number(65_536, 1),
        "key_hash": word("blake3-mod"),
        "incarnations": incarnations,
        "created_at": TIME,
    }
)
ENTRY = record(
    {
        "snapshot_id": ULID,
        "incarnation": INCARNATION,
        "lsn": LSN,
        "path": matching(DIRECTORY),
        "log_bytes": BYTES,
        "files": COUNT,
        "bytes_total": BYTES,
        "bytes_uploaded": BYTES,
        "created_at": TIME,
        "node": NODE_ID,
        "role": ROLE,
        "manifest_hash": HASH,
    },
    added={"bytes_copied": BYTES},
)
PUBLISHED = record({"snapshot_id": ULID, "incarnation": INCARNATION, "lsn": LSN, "published_at": TIME})
POINTER = record(
    {
        "cluster": CLUSTER,
        "partition": COUNT,
        "write_id": ULID,
        "restorable_snapshots_min": number(U32, 1),
        "snapshots": list_of(ENTRY, 1),
        "history": list_of(PUBLISHED, 0, 64),
    }
)
CERTIFIED = record(
    {
        "snapshot_id": ULID,
        "lsn": LSN,
        "path": matching(DIRECTORY),
        "manifest_hash": HASH,
        "verified": word("presence", "content", "restore"),
        "verified_by": NODE_ID,
        "verified_at": TIME,
    }
)
CERTIFICATE = record(
    {
        "cluster": CLUSTER,
        "partition": COUNT,
        "write_id": ULID,
        "incarnation": INCARNATION,
        "up_to": LSN,
        "snapshots": list_of(CERTIFIED, 1),
        "issued_by": NODE_ID,
        "issued_at": TIME,
    }
)
DATA_FILE = record({"name": matching(FILE), "bytes": BYTES, "hash": HASH}, added={"copies": COUNT})
MANIFEST = record(
    {
        "cluster": CLUSTER,
        "partition": COUNT,
        "incarnation": INCARNATION,
        "snapshot_id": ULID,
        "lsn": LSN,
        "log_bytes": BYTES,
        "state_machine": record({"name": text, "version": COUNT}),
        "key_range": record({"partition": COUNT, "of": COUNT}),
        "producer": record({"node": NODE_ID, "role": ROLE}),
        "created_at": TIME,
        "bytes_total": BYTES,
        "bytes_uploaded": BYTES,
        "files": list_of(DATA_FILE),
    },
    optional={
        "chain": list_of(record({"lsn": LSN, "hash": HASH})),
        "state_digest": HASH,
        "leader": record({"epoch": BYTES, "node": NODE_ID}),
        "request_id": ULID,
        "origin": record({"cluster": CLUSTER, "incarnation": INCARNATION, "snapshot_id": ULID}),
    },
    added={"bytes_copied": BYTES},
)


def parse(key, content, kind, unreadable):
    """Reads a document: its format number before anything else."""
    try:
        document = json.loads(content)
    except ValueError as error:
        raise Fault(unreadable, key, f"it is not JSON: {error}") from None
    found = document.get("format") if isinstance(document, dict) else None
    if type(found) is not int:
        raise Fault(unreadable, key, "it has no format number")
    if found > FORMAT:
        raise Fault("newer-format", key, f"it has format {found}, this reader knows up to {FORMAT}")
    try:
        kind(document)
    except ValueError as error:
        raise Fault(unreadable, key, str(error)) from None
    return document
