// SPDX-License-Identifier: Apache-2.0
// Images on this machine: OCI layouts in a directory or tar, and the output of `docker save`.
// Nothing is unpacked: layers are returned as parts of the files that contain them.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "fetch/source.h"
#include "image/reference.h"

namespace imagefs {

// REQUIRES: a local transport and an absolute path. Reads the table of contents (index.json,
// manifest.json, the headers of an archive) immediately, which may block on local disk. GetManifest
// resolves the tag:
//   TAG      the image with that name (annotation org.opencontainers.image.ref.name, or RepoTags);
//            several images with one name for different platforms are returned as an index. Entries
//            that are not images (attestations, artifacts, signatures: MayBeImage) and duplicates
//            are ignored
//   @N       the N-th entry, counted from 0
//   ""       the only image, or an index as above; if that is ambiguous, an error that lists the
//            names and positions
//   DIGEST   that manifest
// The methods of the source run on the calling thread and block on local disk only. For a docker
// archive, the manifest is synthesized from manifest.json, deterministically (docker's schema 2;
// the configuration's digest is that of its bytes, whatever its name; a plain layer's is its
// DiffID).
absl::StatusOr<std::shared_ptr<ImageSource>> OpenLocalSource(const Reference& reference);

}  // namespace imagefs
