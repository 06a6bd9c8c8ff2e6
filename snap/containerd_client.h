// The client's side of containerd's API, as far as it takes to give it an image whose layers stay
// where they are: content, snapshots and image records of one namespace, under one lease.
//
// Methods block until containerd answers; a cancelled token ends them with kCancelled. Not
// thread-safe. Errors name containerd's socket, or what was asked for, and the cause.
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

namespace imagefs {

class ContainerdClient {
 public:
  struct Options {
    std::string address = "/run/containerd/containerd.sock";
    std::string name_space = "default";
    std::string snapshotter = "imagefs";
  };
  using Labels = std::map<std::string, std::string>;

  // Takes a lease, so that nothing of what follows is collected before it has an image record.
  // kUnavailable when nobody answers at the address.
  static absl::StatusOr<std::unique_ptr<ContainerdClient>> Connect(Options options,
                                                                   CancelToken cancel);
  // Gives the lease back: what no image record leads to is collected.
  virtual ~ContainerdClient() = default;

  // Stores a blob, or adds the labels to the one that is there.
  virtual absl::Status PutContent(const Digest& digest, std::string_view bytes,
                                  const Labels& labels) = 0;
  // Has the snapshotter show the layer `chain_id` over `parent` ("" = none), which the labels
  // describe. False when it would have it unpacked: it cannot show it.
  virtual absl::StatusOr<bool> PrepareLayer(const std::string& chain_id, const std::string& parent,
                                            const Labels& labels) = 0;
  // Makes the record, or points the one of that name to another manifest.
  virtual absl::Status PutImage(const std::string& name, const std::string& media_type,
                                const Digest& digest, uint64_t size) = 0;
};

}  // namespace imagefs
