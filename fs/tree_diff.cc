// SPDX-License-Identifier: Apache-2.0
#include "fs/tree_diff.h"

#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "image/privileges.h"

namespace imagefs {
namespace {

// The order of FileWalk: the bytes of names, and what is in a directory right after it.
bool ComesBefore(std::string_view a, std::string_view b) {
  const auto [at_a, at_b] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (at_b == b.end()) return false;
  if (at_a == a.end()) return true;
  const auto rank = [](char c) { return c == '/' ? 0 : 1 + static_cast<unsigned char>(c); };
  return rank(*at_a) < rank(*at_b);
}

// As an unproven layer shows it (RemovePrivileges).
void Disarm(ErofsImage::Stat& stat) {
  if (!S_ISCHR(stat.mode) && !S_ISBLK(stat.mode)) return;
  stat.mode = S_IFREG;
  stat.size = 0;
  stat.rdev_major = stat.rdev_minor = 0;
}

// Returns true if both files are known to have the same bytes: each from the same place of the same
// layer. False: they may or may not.
absl::StatusOr<bool> IsSameData(const Chain& before, Nid before_nid, const Chain& after,
                                Nid after_nid, uint64_t size) {
  const auto layer_of = [](const Chain& chain, uint16_t device) -> const Layer* {
    if (device == 0 || device > chain.layers.size()) return nullptr;
    return chain.layers[device - 1].get();
  };
  uint64_t offset = 0;
  while (offset < size) {
    IMAGEFS_ASSIGN_OR_RETURN(const Extent a, before.index->Map(before_nid, offset));
    IMAGEFS_ASSIGN_OR_RETURN(const Extent b, after.index->Map(after_nid, offset));
    const uint64_t next = std::min(a.file_offset + a.length, b.file_offset + b.length);
    if (a.file_offset > offset || b.file_offset > offset || next <= offset) return false;
    const Layer* const from_a = layer_of(before, a.device);
    const Layer* const from_b = layer_of(after, b.device);
    if (from_a == nullptr && from_b == nullptr) {
      offset = next;
      continue;
    }
    if (from_a == nullptr || from_b == nullptr) return false;
    const bool one_layer = from_a == from_b || (!from_a->id.empty() && from_a->id == from_b->id);
    const bool one_place = a.data_offset - a.file_offset == b.data_offset - b.file_offset;
    if (!one_layer || !one_place) return false;
    offset = next;
  }
  return true;
}

}  // namespace

bool IsProven(const Chain& chain) {
  return std::all_of(chain.layers.begin(), chain.layers.end(),
                     [](const LayerRef& layer) { return layer->proven(); });
}

TreeDiff::TreeDiff(ChainRef before, ChainRef after, Options options)
    : before_(std::move(before)),
      after_(std::move(after)),
      options_(options),
      before_walk_(*before_->index, {before_->index->root(), "/"}, UINT32_MAX),
      after_walk_(*after_->index, {after_->index->root(), "/"}, UINT32_MAX) {}

absl::Status TreeDiff::Advance(FileWalk& walk, std::optional<Entry>& entry) const {
  IMAGEFS_ASSIGN_OR_RETURN(entry, walk.Next());
  if (entry.has_value() && !options_.privileges) Disarm(entry->stat);
  return absl::OkStatus();
}

absl::StatusOr<std::optional<TreeDiff::Difference>> TreeDiff::Next() {
  if (!std::exchange(begun_, true)) {
    IMAGEFS_RETURN_IF_ERROR(Advance(before_walk_, before_entry_));
    IMAGEFS_RETURN_IF_ERROR(Advance(after_walk_, after_entry_));
  }
  while (before_entry_.has_value() || after_entry_.has_value()) {
    std::optional<Difference> found;
    const bool deleted =
        !after_entry_.has_value() ||
        (before_entry_.has_value() && ComesBefore(before_entry_->path, after_entry_->path));
    const bool added =
        !before_entry_.has_value() ||
        (after_entry_.has_value() && ComesBefore(after_entry_->path, before_entry_->path));
    if (deleted) {
      found = Difference{before_entry_->path, before_entry_->stat, std::nullopt, {}, false};
    } else if (added) {
      found = Difference{after_entry_->path, std::nullopt, after_entry_->stat, {}, false};
    } else {
      IMAGEFS_ASSIGN_OR_RETURN(found, Compare(*before_entry_, *after_entry_));
      if (found->what.empty() && !found->compare_content) found.reset();
    }
    if (!added) IMAGEFS_RETURN_IF_ERROR(Advance(before_walk_, before_entry_));
    if (!deleted) IMAGEFS_RETURN_IF_ERROR(Advance(after_walk_, after_entry_));
    if (found.has_value()) return found;
  }
  return std::nullopt;
}

absl::StatusOr<TreeDiff::Difference> TreeDiff::Compare(const Entry& before,
                                                       const Entry& after) const {
  const ErofsImage::Stat &a = before.stat, &b = after.stat;
  Difference out{before.path, a, b, {}, false};
  if ((a.mode & S_IFMT) != (b.mode & S_IFMT)) {
    out.what.push_back("type");
    return out;
  }
  IMAGEFS_RETURN_IF_ERROR(CompareAttributes(before, after, out));
  if (!S_ISREG(a.mode)) return out;
  if (a.size != b.size) {
    out.what.push_back("size");
    return out;
  }
  IMAGEFS_ASSIGN_OR_RETURN(const bool same, IsSameData(*before_, a.nid, *after_, b.nid, a.size));
  out.compare_content = !same;
  return out;
}

absl::Status TreeDiff::CompareAttributes(const Entry& before, const Entry& after,
                                         Difference& out) const {
  const ErofsImage::Stat &a = before.stat, &b = after.stat;
  if (a.mode != b.mode) out.what.push_back("mode");
  if (a.uid != b.uid || a.gid != b.gid) out.what.push_back("owner");
  if (a.rdev_major != b.rdev_major || a.rdev_minor != b.rdev_minor) out.what.push_back("device");
  if (S_ISLNK(a.mode)) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string from, before_->index->Readlink(a.nid));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string to, after_->index->Readlink(b.nid));
    if (from != to) out.what.push_back("target");
  }
  if (options_.times &&
      (a.mtime_seconds != b.mtime_seconds || a.mtime_nanoseconds != b.mtime_nanoseconds)) {
    out.what.push_back("mtime");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<Xattr> from, XattrsOf(*before_, a.nid));
  IMAGEFS_ASSIGN_OR_RETURN(const std::vector<Xattr> to, XattrsOf(*after_, b.nid));
  if (from != to) out.what.push_back("xattrs");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Xattr>> TreeDiff::XattrsOf(const Chain& chain, Nid nid) const {
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<Xattr> xattrs, FileXattrs(chain, nid));
  if (!options_.privileges) {
    std::erase_if(xattrs, [](const Xattr& xattr) { return IsArmedXattr(xattr.name); });
  }
  return xattrs;
}

}  // namespace imagefs
