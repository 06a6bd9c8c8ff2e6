// SPDX-License-Identifier: Apache-2.0
// The client side of containerd's API, reduced to what it takes to register an image whose layers
// are not copied (content, snapshots and image records of one namespace, under one lease), and to
// give it blobs (ContainerdContent).
//
// Methods block until containerd answers; a cancelled token ends them with kCancelled. Not
// thread-safe. Errors name containerd's socket or the requested object, and the cause.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cancel.h"
#include "base/digest.h"
#include "snap/content_store.h"

namespace imagefs {

class ContainerdClient {
 public:
  struct Options {
    std::string address = "/run/containerd/containerd.sock";
    std::string name_space = "default";
    std::string snapshotter = "imagefs";
    std::string purpose = "imagefs-rpull";  // begins the names of the lease and of unfinished blobs
  };
  using Labels = std::map<std::string, std::string>;

  // Connects and takes a lease, which protects everything created below from garbage collection
  // until an image record refers to it. Returns kUnavailable if nothing answers at the address.
  static absl::StatusOr<std::unique_ptr<ContainerdClient>> Connect(Options options,
                                                                   CancelToken cancel);
  // Releases the lease; anything that no image record refers to can then be collected.
  virtual ~ContainerdClient() = default;

  // Stores a blob, or adds the labels to an existing one.
  virtual absl::Status PutContent(const Digest& digest, std::string_view bytes,
                                  const Labels& labels) = 0;
  // Makes the snapshotter prepare the layer `chain_id`, which the labels describe, on top of
  // `parent` ("" = none). Returns false if the snapshotter cannot present it lazily and wants it
  // unpacked.
  virtual absl::StatusOr<bool> PrepareLayer(const std::string& chain_id, const std::string& parent,
                                            const Labels& labels) = 0;
  // Creates the record, or points the existing one to another manifest.
  virtual absl::Status PutImage(const std::string& name, const std::string& media_type,
                                const Digest& digest, uint64_t size) = 0;
};

// containerd's content store. Each Write holds a lease. Connects with each call; `cancel` ends
// calls with kCancelled.
std::unique_ptr<ContentStore> ContainerdContent(std::string address, CancelToken cancel);

}  // namespace imagefs
