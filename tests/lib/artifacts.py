# SPDX-License-Identifier: Apache-2.0
"""Builds OCI artifacts as the tools that push them shape them, with the tree that each must show."""
import json
import os

from oci import *

MODEL = "org.cncf.model."
TITLE = "org.opencontainers.image.title"
EMPTY = "application/vnd.oci.empty.v1+json"


class Artifact:
    """An OCI layout with one artifact; its files are also written below `expected`, unless that is None."""

    def __init__(self, path, expected, artifact_type):
        self.layout, self.expected, self.type = Layout(path), expected, artifact_type
        self.blobs = []
        if expected:
            os.makedirs(expected)
            os.chmod(expected, 0o755)

    def add(self, content, media, annotations=None):
        blob = {"mediaType": media, "digest": self.layout.blob(content), "size": len(content)}
        if annotations:
            blob["annotations"] = annotations
        self.blobs.append(blob)

    def expect(self, path, content, mode=0o644, uid=0, gid=0, mtime=(0, 0), directory_time=0):
        if not self.expected:
            return
        at = self.expected
        for part in os.path.normpath(path).split("/")[:-1]:
            at += "/" + part
            if not os.path.isdir(at):
                os.mkdir(at)
                os.chmod(at, 0o755)
        file = f"{self.expected}/{path}"
        with open(file, "wb") as f:
            f.write(content)
        os.chown(file, uid, gid)
        os.chmod(file, mode)
        os.utime(file, ns=(0, mtime[0] * 10**9 + mtime[1]))

    def blob(self, path, content, media):
        self.add(content, media)
        self.expect(path, content)

    def title(self, path, content, media):
        self.add(content, media, {TITLE: path})
        self.expect(path, content)

    def model_file(self, path, content, kind="weight", mode=0o644, uid=0, gid=0, mtime=(T0, 0)):
        """As modctl: a raw blob with its path and the file's metadata."""
        import datetime
        when = datetime.datetime.fromtimestamp(mtime[0], datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        metadata = {"name": os.path.basename(path), "mode": mode, "uid": uid, "gid": gid, "size": len(content),
                    "mtime": f"{when}.{mtime[1]:09d}Z", "typeflag": 48}
        self.add(content, f"application/vnd.cncf.model.{kind}.v1.raw",
                 {MODEL + "filepath": path, MODEL + "file.metadata+json": json.dumps(metadata)})
        self.expect(path, content, mode, uid, gid, mtime)

    def model_tar(self, files, kind, suffix):
        """As modctl without --raw: a tar, in which the file has its path."""
        tar = Tar()
        for path, content in files.items():
            tar.file(path, content)
            self.expect(path, content, mtime=(T0, 0))
        data = tar.bytes()
        data = gzipped(data) if suffix.endswith("gzip") else zstded(data) if suffix.endswith("zstd") else data
        self.add(data, f"application/vnd.cncf.model.{kind}.v1{suffix}", {MODEL + "filepath": next(iter(files))})

    def unpacked(self, title, files):
        """As ORAS pushes a directory."""
        tar = Tar()
        for path, content in files.items():
            tar.file(path, content)
            self.expect(path, content, mtime=(T0, 0))
        self.add(gzipped(tar.bytes()), LAYER_GZIP, {
            TITLE: title, "io.deis.oras.content.unpack": "true",
            "io.deis.oras.content.digest": sha256(tar.bytes())})

    def write(self, config_type=EMPTY, config=None, tag="latest"):
        raw = json.dumps(config or {}).encode()
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                    "config": {"mediaType": config_type, "digest": self.layout.blob(raw), "size": len(raw)},
                    "layers": self.blobs}
        if self.type:
            manifest["artifactType"] = self.type
        entry = self.layout.manifest(manifest, MANIFEST)
        if self.type:
            entry["artifactType"] = self.type  # as ORAS does
        self.layout.tag(entry, tag)
        if not self.expected:
            return
        # Directories that no tar names have the time 1970.
        for directory, _, _ in os.walk(self.expected, topdown=False):
            os.utime(directory, (0, 0))
