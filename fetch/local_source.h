// Images that lie on this machine: OCI layouts in a directory or a tar, and the output of
// `docker save`. Nothing is unpacked: layers are handed out as parts of the files they lie in.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "fetch/source.h"
#include "image/reference.h"

namespace imagefs {

// REQUIRES: a local transport and an absolute path. Reads the table of contents (index.json,
// manifest.json, the headers of an archive) at once; that may block on local disk. The tag is
// looked up by GetManifest:
//   TAG      the image of that name (annotation org.opencontainers.image.ref.name, or RepoTags);
//            several of one name for different platforms come as an index. What stands beside
//            images (attestations, artifacts, signatures: MayBeImage) and one image listed twice do
//            not count
//   @N       the N-th entry, counted from 0
//   ""       the only image, or an index as above; an error that lists the names and places when
//            that does not say which one
//   DIGEST   that manifest
// The methods of the source run on the calling thread and block on local disk only. For a docker
// archive the manifest is made up from manifest.json (docker's schema 2; the digest of the
// configuration is that of its bytes, whatever its name says; that of a plain layer is its DiffID),
// always the same for the same archive.
absl::StatusOr<std::shared_ptr<ImageSource>> OpenLocalSource(const Reference& reference);

}  // namespace imagefs
