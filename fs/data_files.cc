#include "fs/data_files.h"

namespace imagefs {

void DataFiles::Add(const LayerRef& layer) {
  absl::MutexLock lock(&mu_);
  uint64_t& node = names_[layer->id.hex()];
  if (node == 0) node = next_node_++;
  Entry& entry = files_[node];
  if (entry.layer == nullptr) entry.layer = layer;
  ++entry.users;
}

bool DataFiles::Remove(const Digest& layer) {
  absl::MutexLock lock(&mu_);
  const auto name = names_.find(layer.hex());
  if (name != names_.end()) {
    const auto file = files_.find(name->second);
    if (--file->second.users == 0) {
      if (!file->second.known) files_.erase(file);
      names_.erase(name);
    }
  }
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
  if (found->second.users == 0) files_.erase(found);
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
