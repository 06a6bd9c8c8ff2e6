// SPDX-License-Identifier: Apache-2.0
// A runtime's store of blobs, in namespaces that each have their own view of it. containerd's is
// made by ContainerdContent (snap/containerd_client.h).
//
// Methods block until the runtime answers. Not thread-safe. Errors name the runtime's socket or the
// object, and the cause; kUnavailable: the runtime does not answer.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/digest.h"
#include "base/fd.h"

namespace imagefs {

class ContentStore {
 public:
  virtual ~ContentStore() = default;
  using Labels = std::map<std::string, std::string>;

  virtual absl::StatusOr<std::vector<std::string>> Namespaces() = 0;
  // Everything that a namespace has, with its labels.
  virtual absl::StatusOr<absl::flat_hash_map<Digest, Labels>> List(
      const std::string& name_space) = 0;
  struct Blob {
    Digest digest;
    uint64_t size = 0;
    Labels labels;
  };
  // Gives the namespace a blob; OK if it has it already. `file` has the blob's bytes; null: they
  // are in another namespace, and kNotFound is returned if the store does not share them. The
  // runtime checks the digest, and returns kFailedPrecondition if the bytes are wrong. Afterwards
  // the blob lives as long as something in the namespace refers to it.
  virtual absl::Status Write(const std::string& name_space, const Blob& blob, const Fd* file) = 0;
};

}  // namespace imagefs
