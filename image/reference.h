// SPDX-License-Identifier: Apache-2.0
// Image references as users type them.
//
//   [docker://]HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]   a registry; docker.io and library/ are
//                              implied as in docker
//   oci:DIR[:TAG]              an OCI image layout; `oci:DIR:@N` picks the N-th manifest
//   oci-archive:FILE[:TAG]     the same in a tar
//   docker-archive:FILE[:TAG]  the output of `docker save`
//
// Grammar and defaults follow docker: the first component is a host if it contains '.' or ':', is
// "localhost", or contains an upper-case letter. A value type; no I/O.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/digest.h"

namespace imagefs {

// True for localhost, 127.0.0.0/8 and [::1], with or without a port.
bool IsLoopbackHost(std::string_view host);

struct Reference {
  enum class Transport { kRegistry, kOciLayout, kOciArchive, kDockerArchive };

  Transport transport = Transport::kRegistry;
  std::string host;        // registry: "docker.io", "127.0.0.1:5000", "[::1]:5000"
  std::string repository;  // registry: "library/alpine"
  std::string path;        // local transports: absolute after MakeAbsolute
  std::string tag;         // may be empty if `digest` is set, or for local transports
  std::optional<Digest> digest;

  // Rejects what docker rejects; the message quotes the text and says what is wrong.
  static absl::StatusOr<Reference> Parse(std::string_view text);

  // Canonical text: "docker.io/library/alpine:3", "...@sha256:...", "oci:/dir:tag".
  std::string ToString() const;
  // The identifier to request from a registry: the digest if set, else the tag.
  std::string TagOrDigest() const;
  // Host of the registry's API: registry-1.docker.io for docker.io, else `host`.
  std::string ApiHost() const;
  // True for a registry on a loopback host: plain HTTP by default.
  bool IsLoopback() const;
  // For local transports: resolves a relative `path` against `directory`.
  void MakeAbsolute(std::string_view directory);

  bool operator==(const Reference&) const = default;
};

}  // namespace imagefs
