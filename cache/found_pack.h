// SPDX-License-Identifier: Apache-2.0
// The hot pack that was found with the indexes of a chain, until the chain is made. Thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "base/digest.h"
#include "cache/chain.h"
#include "cache/hot_pack_stream.h"

namespace imagefs {

class FoundPack {
 public:
  // `layers`: the names of those that the same artifact describes. Nobody else may get its pages.
  void Put(std::shared_ptr<HotPackStream> pack, std::vector<Digest> layers);
  // Gives the pack to those of its layers that the chain has; `ended` as in HotPackStream::Attach.
  // Returns false, and never calls it, if there is no pack for them.
  bool Attach(const ChainRef& chain, absl::AnyInvocable<void()> ended);

 private:
  absl::Mutex mu_;
  std::shared_ptr<HotPackStream> pack_ ABSL_GUARDED_BY(mu_);
  std::vector<Digest> layers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
