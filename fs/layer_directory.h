// What the file system of podman's additional layer store shows, and whom it tells of its users:
//
//   <reference>/<layer>/diff   symbolic link to the layer's tree, in overlay form
//   <reference>/<layer>/info   JSON
//   <reference>/<layer>/blob   has the size of the layer's blob, and cannot be read
//
// Implemented in snap/. Thread-safe; called by FUSE workers, which must not be kept waiting.
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
  // Looks for a layer; whatever the error is, there is none. `done` runs once, on any thread
  // (inline allowed).
  using LayerDone = absl::AnyInvocable<void(absl::StatusOr<std::shared_ptr<const Layer>>)>;
  virtual FlightTicket Find(const std::string& reference, const std::string& layer,
                            LayerDone done) = 0;
  // One more, one less user of a layer that was found. `done` when that is on disk.
  using Done = absl::AnyInvocable<void()>;
  virtual void Use(const std::string& reference, const std::string& layer, Done done) = 0;
  virtual void Release(const std::string& reference, const std::string& layer, Done done) = 0;
};

}  // namespace imagefs
