// SPDX-License-Identifier: Apache-2.0
#include "fs/data_files.h"

#include <string.h>

#include <algorithm>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

constexpr uint64_t kFirstNode = 2;  // 1 = the directory

std::string NameOf(const Layer& layer, uint64_t node) { return StrCat(layer.id.hex(), ".", node); }

}  // namespace

uint64_t DataNodeOf(const Layer& layer) {
  const Digest digest = Sha256Of(StrCat("imagefs data node 1\n", layer.id.ToString(), "\n",
                                        layer.data_bytes, "\n", layer.index->Checksum(), "\n"));
  // 63 bits, so that it can also serve as a directory offset.
  uint64_t node = 0;
  memcpy(&node, digest.bytes().data(), sizeof(node));
  return std::max(node >> 1, kFirstNode);
}

std::string DataNameOf(const Layer& layer) { return NameOf(layer, DataNodeOf(layer)); }

absl::Status DataFiles::Add(const LayerRef& layer, const Digest& chain_id) {
  const uint64_t node = DataNodeOf(*layer);  // reads the entire index
  std::string name = NameOf(*layer, node);
  absl::MutexLock lock(&mu_);
  Entry& entry = files_[node];
  if (entry.layer != nullptr && entry.layer->id != layer->id) {
    return absl::AlreadyExistsError(
        StrCat("layers ", entry.layer->id.ToString(), " and ", layer->id.ToString(),
               " have the same node number; mount one of them with --mode fuse"));
  }
  const bool fresh = entry.layer == nullptr;
  // The object of a layer without users may have been replaced in the store.
  if (entry.users == 0) entry.layer = layer;
  if (fresh && journal_ != nullptr) journal_->Added(node, *layer, chain_id);
  ++entry.users;
  names_[std::move(name)] = node;
  return absl::OkStatus();
}

void DataFiles::Restore(const LayerRef& layer) {
  const uint64_t node = DataNodeOf(*layer);
  absl::MutexLock lock(&mu_);
  Entry& entry = files_[node];
  if (entry.layer == nullptr) entry.layer = layer;
  entry.known = true;
}

void DataFiles::Remove(const LayerRef& layer) {
  const std::string name = DataNameOf(*layer);
  absl::MutexLock lock(&mu_);
  const auto found = names_.find(name);
  if (found == names_.end()) return;
  const uint64_t node = found->second;
  if (--files_.at(node).users > 0) return;
  names_.erase(found);
  EraseIfUnused(node);
}

bool DataFiles::unused() const {
  absl::MutexLock lock(&mu_);
  return names_.empty();
}

DataFiles::File DataFiles::Lookup(std::string_view name) {
  absl::MutexLock lock(&mu_);
  const auto found = names_.find(name);
  if (found == names_.end()) return {};
  Entry& entry = files_.at(found->second);
  entry.known = true;
  return {found->second, entry.layer};
}

void DataFiles::Forget(uint64_t node) {
  absl::MutexLock lock(&mu_);
  const auto found = files_.find(node);
  if (found == files_.end()) return;
  found->second.known = false;
  EraseIfUnused(node);
}

void DataFiles::EraseIfUnused(uint64_t node) {
  const auto found = files_.find(node);
  if (found->second.users > 0 || found->second.known) return;
  files_.erase(found);
  if (journal_ != nullptr) journal_->Gone(node);
}

DataFiles::File DataFiles::Find(uint64_t node) const {
  absl::MutexLock lock(&mu_);
  const auto found = files_.find(node);
  if (found == files_.end()) return {};
  return {node, found->second.layer};
}

std::vector<DataFiles::File> DataFiles::List(uint64_t after) const {
  std::vector<File> out;
  absl::MutexLock lock(&mu_);
  for (auto it = files_.upper_bound(after); it != files_.end(); ++it) {
    if (it->second.users > 0) out.push_back({it->first, it->second.layer});
  }
  return out;
}

}  // namespace imagefs
