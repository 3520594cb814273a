#!/usr/bin/env python3
"""Reads a Tidemark repository in a local folder, with docs/repository-format.md as its only source.

    tidemark_reader.py list FOLDER
    tidemark_reader.py verify FOLDER [--partition N]
    tidemark_reader.py restore-point FOLDER --partition N --needed LSN [--incarnation GENERATION:ID] [--applied LSN]

Prints one JSON object. The exit code is 0 when nothing is wrong and the question has an answer, else 1; 2 for wrong
arguments. Faults stand in the list `faults`, each with kind, key and detail. Writes nothing. Needs the package
`blake3`, and nothing else beyond the standard library.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from blake3 import blake3

from tidemark_format import CERTIFICATE, DIRECTORY, FILE, IDENTITY, MANIFEST, PARTITION, POINTER, U64, Fault, parse

DOCUMENT_BYTES_MAX = 64 << 20
CHOICES_MAX = 5
MANIFEST_NAME = "metadata.json"
INCOMPLETE = re.compile(r".*#[0-9]+", re.DOTALL)


def directory_of(entry):
    return f"{entry['incarnation']['generation']:010}-{entry['lsn']:020}_{entry['snapshot_id']}"


def position(name):
    """(generation, LSN) of a directory's name; None when it is not one that Tidemark writes."""
    match = DIRECTORY.fullmatch(name)
    generation, lsn = (int(match[1]), int(match[2])) if match else (U64 + 1, 0)
    return (generation, lsn) if generation <= U64 and lsn <= U64 else None


def conflict(one, other):
    return one["generation"] == other["generation"] and one["id"] != other["id"]


class Repository:
    """One cluster's objects in a folder."""

    def __init__(self, folder):
        self.folder = Path(folder)
        content = self.get("cluster.json")
        if content is None:
            raise Fault("missing", "cluster.json", "the folder holds no repository")
        self.identity = parse("cluster.json", content, IDENTITY, "unreadable")
        self.partitions = self.identity["partitions"]

    def get(self, key):
        """Returns an object's bytes; None when it is not there. Any other failure says nothing, and ends the program."""
        try:
            with open(self.folder / key, "rb") as file:
                content = file.read(DOCUMENT_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        if len(content) > DOCUMENT_BYTES_MAX:
            raise Fault("unreadable", key, "it is larger than a document may be")
        return content

    def owned(self, key, document, partition):
        """Checks whose document it is."""
        ours = self.identity["cluster"]["fingerprint"]
        found = document["cluster"]["fingerprint"]
        if found != ours:
            raise Fault("foreign-cluster", key, f"it belongs to {found}, not to {ours}")
        if document["partition"] != partition:
            raise Fault("wrong-snapshot", key, f"it is of partition {document['partition']}")
        return document

    def pointer(self, partition):
        key = f"{partition}/latest.json"
        content = self.get(key)
        if content is None:
            return None
        pointer = self.owned(key, parse(key, content, POINTER, "pointer-unreadable"), partition)
        positions = []
        for entry in pointer["snapshots"]:
            if entry["path"] != directory_of(entry):
                raise Fault("pointer-unreadable", key, f"{entry['snapshot_id']} does not live in {entry['path']}")
            positions.append((entry["incarnation"]["generation"], entry["lsn"]))
        if any(newer <= older for newer, older in zip(positions, positions[1:])):
            raise Fault("pointer-unreadable", key, "its snapshots are not sorted newest first")
        return pointer

    def certificate(self, partition):
        key = f"{partition}/trim.json"
        content = self.get(key)
        if content is None:
            return None
        return self.owned(key, parse(key, content, CERTIFICATE, "certificate-unreadable"), partition)

    def manifest(self, partition, entry):
        key = f"{partition}/{entry['path']}/{MANIFEST_NAME}"
        content = self.get(key)
        if content is None:
            directory = self.folder / str(partition) / entry["path"]
            if not directory.is_dir() or not any(complete(directory)):
                raise Fault("pointer-to-nothing", f"{partition}/{entry['path']}/", "not one object is there")
            raise Fault("missing-manifest", key, "it is not there")
        found = blake3(content).hexdigest()
        if found != entry["manifest_hash"]:
            raise Fault("wrong-hash", key, f"expected {entry['manifest_hash']}, found {found}")
        manifest = parse(key, content, MANIFEST, "unreadable-manifest")
        if manifest["incarnation"] != entry["incarnation"]:
            raise Fault("wrong-incarnation", key, f"it is of incarnation {manifest['incarnation']}")
        self.owned(key, manifest, partition)
        if directory_of(manifest) != entry["path"]:
            raise Fault("wrong-snapshot", key, f"it describes {directory_of(manifest)}")
        names = [file["name"] for file in manifest["files"]]
        if names != sorted(set(names), key=str.encode) or MANIFEST_NAME in names:
            raise Fault("unreadable-manifest", key, "its files are not sorted, or one is impossible")
        return manifest

    def verify(self, partition, entry):
        """Returns the hashes of a snapshot's files, and what is wrong with it."""
        try:
            manifest = self.manifest(partition, entry)
        except Fault as fault:
            return {}, [fault]
        hashes, faults = {}, []
        for file in manifest["files"]:
            key = f"{partition}/{entry['path']}/{file['name']}"
            try:
                size, hashes[file["name"]] = hash_file(self.folder / key)
            except FileNotFoundError:
                faults.append(Fault("missing-file", key, f"expected {file['bytes']} bytes"))
                continue
            if size != file["bytes"]:
                faults.append(Fault("wrong-size", key, f"expected {file['bytes']} bytes, found {size}"))
            elif hashes[file["name"]] != file["hash"]:
                faults.append(Fault("wrong-hash", key, f"expected {file['hash']}, found {hashes[file['name']]}"))
        return hashes, faults

    def survey(self, partition, pointer, certificate):
        """Says of each directory what it is, and names what is not Tidemark's."""
        named = {entry["path"]: "retained" for entry in pointer["snapshots"]} if pointer else {}
        for snapshot in certificate["snapshots"] if certificate else []:
            named.setdefault(snapshot["path"], "certified")
        latest = position(pointer["snapshots"][0]["path"]) if pointer else None
        directories, unknown = [], []
        folder = self.folder / str(partition)
        for found in sorted(folder.iterdir()) if folder.is_dir() else []:
            if found.is_dir() and position(found.name):
                inside = sorted(complete(found))
                strange = [name for name in inside if not FILE.fullmatch(name)]
                unknown += [f"{partition}/{found.name}/{name}" for name in strange]
                above = latest is not None and position(found.name) > latest
                state = "evicted" if MANIFEST_NAME in inside and not above else "unfinished"
                state = named.get(found.name, state)
                directories.append({"directory": found.name, "state": state})
            elif found.is_dir():
                unknown += [f"{partition}/{found.name}/{name}" for name in sorted(complete(found))]
            elif found.name not in ("latest.json", "trim.json") and not INCOMPLETE.fullmatch(found.name):
                unknown.append(f"{partition}/{found.name}")
        return directories, unknown

    def unknown_in_base(self):
        unknown = []
        for found in sorted(self.folder.iterdir()):
            if found.is_dir():
                ours = PARTITION.fullmatch(found.name) and int(found.name) < self.partitions
                if not ours and found.name != "admin":
                    unknown.append(f"{found.name}/")
            elif found.name not in ("cluster.json", ".lock") and not INCOMPLETE.fullmatch(found.name):
                unknown.append(found.name)
        return unknown


def complete(folder):
    """Yields the objects below a folder, relative to it: files that are not complete are none."""
    for path in folder.rglob("*"):
        if path.is_file() and not INCOMPLETE.fullmatch(path.name):
            yield path.relative_to(folder).as_posix()


def hash_file(path):
    hasher, size = blake3(), 0
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            hasher.update(part)
            size += len(part)
    return size, hasher.hexdigest()


def shown(entry):
    fields = ("snapshot_id", "incarnation", "lsn", "path", "files", "bytes_total", "manifest_hash")
    return {field: entry[field] for field in fields}


def documents(repository, partition, faults):
    """Returns pointer and certificate; None for one that is not there, or that went to the faults."""
    found = []
    for read in (repository.pointer, repository.certificate):
        try:
            found.append(read(partition))
        except Fault as fault:
            faults.append(fault)
            found.append(None)
    return found


def list_all(repository, _):
    partitions, faults = [], []
    for partition in range(repository.partitions):
        pointer, certificate = documents(repository, partition, faults)
        directories, unknown = repository.survey(partition, pointer, certificate)
        partitions.append(
            {
                "partition": partition,
                "snapshots": [shown(entry) for entry in pointer["snapshots"]] if pointer else [],
                "certified_up_to": certificate["up_to"] if certificate else None,
                "directories": directories,
                "unknown": unknown,
            }
        )
    unknown = repository.unknown_in_base()
    return {"cluster": repository.identity["cluster"], "partitions": partitions, "unknown": unknown}, faults


def verify(repository, arguments):
    wanted = range(repository.partitions) if arguments.partition is None else [arguments.partition]
    snapshots, faults = [], []
    for partition in wanted:
        pointer, _ = documents(repository, partition, faults)
        for entry in pointer["snapshots"] if pointer else []:
            hashes, found = repository.verify(partition, entry)
            faults += found
            snapshots.append({"partition": partition, **shown(entry), "hashes": hashes, "sound": not found})
    return {"snapshots": snapshots}, faults


def passed_over(entry, incarnation, arguments):
    """Why a snapshot is no candidate; None when it is one."""
    key = f"{arguments.partition}/latest.json"
    if conflict(entry["incarnation"], incarnation):
        raise Fault("wrong-incarnation", key, f"{entry['incarnation']} conflicts with {incarnation}")
    if entry["incarnation"] != incarnation:
        return "other-incarnation"
    if entry["lsn"] < arguments.needed:
        return "below-needed"
    if arguments.applied is not None and entry["lsn"] <= arguments.applied:
        return "nothing-new"
    return None


def restore_point(repository, arguments):
    partition, damaged = arguments.partition, {}
    answer = {"partition": partition, "needed": arguments.needed, "restore_point": None}
    for _ in range(CHOICES_MAX):
        pointer = repository.pointer(partition)
        if pointer is None:
            raise Fault("pointer-missing", f"{partition}/latest.json", "no snapshot was published")
        incarnation = arguments.incarnation or pointer["snapshots"][0]["incarnation"]
        reasons = {entry["path"]: passed_over(entry, incarnation, arguments) for entry in pointer["snapshots"]}
        answer["passed_over"] = {path: reason for path, reason in reasons.items() if reason}
        answer["damaged"] = damaged
        again = False
        for entry in pointer["snapshots"]:
            if reasons[entry["path"]] or entry["path"] in damaged:
                continue
            _, faults = repository.verify(partition, entry)
            if not faults:
                return {**answer, "restore_point": shown(entry)}, []
            # What was evicted meanwhile is missing rightly: the pointer says whether it was.
            now = repository.pointer(partition)
            again = now is None or all(other["path"] != entry["path"] for other in now["snapshots"])
            if again:
                break
            damaged[entry["path"]] = [fault.json() for fault in faults]
        if not again:
            break
    fault = Fault("no-restore-point", f"{partition}/latest.json", f"no sound snapshot covers {arguments.needed}")
    return answer, [fault]


def incarnation(value):
    generation, id = value.split(":")
    return {"generation": int(generation), "id": id}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, command in [("list", list_all), ("verify", verify), ("restore-point", restore_point)]:
        sub = commands.add_parser(name)
        sub.add_argument("folder")
        sub.set_defaults(command=command)
        if name != "list":
            sub.add_argument("--partition", type=int, required=name == "restore-point")
        if name == "restore-point":
            sub.add_argument("--needed", type=int, required=True)
            sub.add_argument("--applied", type=int)
            # The log's own; that of the newest snapshot will do to look around.
            sub.add_argument("--incarnation", type=incarnation)
    arguments = parser.parse_args()
    try:
        answer, faults = arguments.command(Repository(arguments.folder), arguments)
    except Fault as fault:
        answer, faults = {}, [fault]
    print(json.dumps({**answer, "faults": [fault.json() for fault in faults]}))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
