// SPDX-License-Identifier: Apache-2.0
// Fetches the hot pack of an image (docs/formats/published.md) and gives its pages to the image's
// layers while it arrives. It is started together with the fetch of the layers' indexes, so what
// comes before there are layers waits in an unlinked file.
//
// A pack that is broken, slow or false harms nobody: readers ask for spans instead (FillingLayer).
// Thread-safe; nothing here blocks except the work on `work`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/byte_budget.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/fd.h"
#include "cache/filling_layer.h"
#include "fetch/source.h"
#include "image/hot_pack.h"

namespace imagefs {

class HotPackStream {
 public:
  struct Spool {
    Fd file;
    ByteBudget::Lease room;
  };
  using SpoolDone = absl::AnyInvocable<void(absl::StatusOr<Spool>)>;
  struct Options {
    std::shared_ptr<ImageSource> source;
    PublishedHotPack pack;
    // Gives an unlinked file for the pack's bytes, once there is room for it.
    std::function<void(CancelToken, SpoolDone)> make_spool;
    Executor* work = nullptr;  // must outlive `keep`
    CancelToken stop;
    std::function<void()> lied;  // bytes of the pack were not those of a layer; must not block
    std::shared_ptr<void> keep;  // released when everything has ended
  };
  // Begins the fetch.
  static std::shared_ptr<HotPackStream> Start(Options options);
  // Cancels the fetch if there are no layers.
  ~HotPackStream();
  HotPackStream(const HotPackStream&) = delete;
  HotPackStream& operator=(const HotPackStream&) = delete;

  // Layers by DiffID. Runs `ended` once, on any thread: when no more pages come, or at once if it
  // is not even known yet which will. To be called once.
  using Layers = std::vector<std::pair<Digest, std::shared_ptr<FillingLayer>>>;
  void Attach(Layers layers, absl::AnyInvocable<void()> ended);

 private:
  class State;
  explicit HotPackStream(std::shared_ptr<State> state) : state_(std::move(state)) {}
  const std::shared_ptr<State> state_;
};

}  // namespace imagefs
