// SPDX-License-Identifier: Apache-2.0
// The content of the file system of podman's additional layer store, which reports the users of
// each layer:
//
//   <reference>/<layer>/diff   symbolic link to the layer's tree, in overlay form
//   <reference>/<layer>/info   JSON
//   <reference>/<layer>/blob   has the size of the layer's blob, but cannot be read
//
// Implemented in snap/. Thread-safe. Called by FUSE workers, so methods must not block.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/flight.h"

namespace imagefs {

class LayerDirectory {
 public:
  virtual ~LayerDirectory() = default;

  struct Layer {
    std::string tree;  // where it is mounted
    std::string info;
    uint64_t blob_bytes = 0;
  };
  virtual bool IsReference(std::string_view name) const = 0;
  // Finds a layer. Any error means that it does not exist. `done` runs exactly once, on any thread
  // (possibly inline).
  using LayerDone = absl::AnyInvocable<void(absl::StatusOr<std::shared_ptr<const Layer>>)>;
  virtual FlightTicket Find(const std::string& reference, const std::string& layer,
                            LayerDone done) = 0;
  // Adds or removes a user of a layer that was found. `done` runs once that is on disk.
  using Done = absl::AnyInvocable<void()>;
  virtual void Use(const std::string& reference, const std::string& layer, Done done) = 0;
  virtual void Release(const std::string& reference, const std::string& layer, Done done) = 0;
};

}  // namespace imagefs
