// SPDX-License-Identifier: Apache-2.0
// The nodes of a session that serves a LayerDirectory. A path keeps its number while the kernel
// knows it. Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "fs/layer_directory.h"

namespace imagefs {

class LayerNodes {
 public:
  enum class Kind { kRoot, kReference, kLayer, kTree, kInfo, kBlob };
  struct Node {
    Kind kind = Kind::kRoot;
    std::string reference, layer;                          // names, as applicable
    std::shared_ptr<const LayerDirectory::Layer> content;  // of a layer and the files below it
  };
  static constexpr uint64_t kRootNumber = 1;

  // Adds a kernel reference to the node, to be dropped by Forget. A tree at another mount point is
  // another node, because the kernel caches link targets.
  uint64_t Enter(Node node) {
    absl::MutexLock lock(&mu_);
    const Key key = {node.kind, node.reference, node.layer,
                     node.kind == Kind::kTree ? node.content->tree : ""};
    auto [number, fresh] = numbers_.emplace(key, next_);
    if (fresh) ++next_;
    Entry& entry = nodes_[number->second];
    entry.node = std::move(node);
    ++entry.lookups;
    return number->second;
  }
  void Forget(uint64_t number, uint64_t lookups) {
    absl::MutexLock lock(&mu_);
    const auto found = nodes_.find(number);
    if (found == nodes_.end()) return;
    found->second.lookups -= std::min(lookups, found->second.lookups);
    if (found->second.lookups > 0) return;
    const Node& node = found->second.node;
    numbers_.erase({node.kind, node.reference, node.layer,
                    node.kind == Kind::kTree ? node.content->tree : ""});
    nodes_.erase(found);
  }
  std::optional<Node> Find(uint64_t number) const {
    if (number == kRootNumber) return Node();
    absl::MutexLock lock(&mu_);
    const auto found = nodes_.find(number);
    if (found == nodes_.end()) return std::nullopt;
    return found->second.node;
  }

 private:
  using Key = std::tuple<Kind, std::string, std::string, std::string>;
  struct Entry {
    Node node;
    uint64_t lookups = 0;
  };
  mutable absl::Mutex mu_;
  uint64_t next_ ABSL_GUARDED_BY(mu_) = kRootNumber + 1;
  std::map<Key, uint64_t> numbers_ ABSL_GUARDED_BY(mu_);
  std::map<uint64_t, Entry> nodes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace imagefs
