// References to images, as people type them.
//
//   [docker://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]   a registry; docker.io and library/ are
//                              implied as docker does
//   oci:DIR[:TAG]              an OCI image layout; `oci:DIR:@N` picks the N-th manifest
//   oci-archive:FILE[:TAG]     the same in a tar
//   docker-archive:FILE[:TAG]  the output of `docker save`
//
// Grammar and defaults are those of docker: the first component is a host when it has '.' or ':',
// is "localhost" or has an upper-case letter. A value, no I/O.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

struct Reference {
  enum class Transport { kRegistry, kOciLayout, kOciArchive, kDockerArchive };

  Transport transport = Transport::kRegistry;
  std::string host;        // registry: "docker.io", "127.0.0.1:5000", "[::1]:5000"
  std::string repository;  // registry: "library/alpine"
  std::string path;        // local transports: absolute after MakeAbsolute
  std::string tag;         // may be empty when `digest` is given or for local transports
  std::optional<Digest> digest;

  // Refuses what docker refuses; the message quotes the text and says what is wrong with it.
  static absl::StatusOr<Reference> Parse(std::string_view text);

  // Canonical text: "docker.io/library/alpine:3", "...@sha256:...", "oci:/dir:tag".
  std::string ToString() const;
  // What a registry is asked for: the digest when there is one, else the tag.
  std::string TagOrDigest() const;
  // Where the registry's API is: registry-1.docker.io for docker.io, else `host`.
  std::string ApiHost() const;
  // localhost, 127.0.0.0/8 and [::1], with or without a port: plain HTTP by default.
  bool IsLoopback() const;
  // Local transports: resolves a relative `path` against `directory`.
  void MakeAbsolute(std::string_view directory);

  bool operator==(const Reference&) const = default;
};

}  // namespace imagefs
