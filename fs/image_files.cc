// SPDX-License-Identifier: Apache-2.0
#include "fs/image_files.h"

#include <sys/stat.h>

#include <algorithm>

#include "base/similar.h"
#include "base/status.h"
#include "base/text.h"
#include "fs/tree_xattrs.h"
#include "image/erofs_format.h"

namespace imagefs {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel
constexpr size_t kMaxNameBytes = 255;
constexpr size_t kNamesAtOnce = 256;
// Names that are compared with a mistyped one, and that are then shown.
constexpr size_t kMaxCandidates = 20'000;
constexpr size_t kMaxShown = 3;

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

absl::Status BadName(std::string_view directory) {
  return absl::DataLossError(
      StrCat("the index is damaged: ", PrintableName(directory), " has an impossible name"));
}

std::string Joined(std::string_view directory, std::string_view name) {
  return StrCat(directory, directory == "/" ? "" : "/", name);
}

// Returns "; the nearest names are ...", or "" if none is near.
std::string NearestNames(const ErofsImage& image, Nid directory, std::string_view name) {
  std::vector<std::string> names;
  const absl::Status status = image.ReadDir(directory, 0, [&](const ErofsImage::DirentView& found) {
    if (IsName(found.name)) names.emplace_back(found.name);
    return names.size() < kMaxCandidates;
  });
  if (!status.ok()) return "";
  std::string shown;
  for (size_t i = 0; i < kMaxShown; ++i) {
    const std::string best = MostSimilar(name, names);
    if (best.empty()) break;
    StrAppend(&shown, shown.empty() ? "" : ", ", PrintableName(best, 60));
    names.erase(std::find(names.begin(), names.end(), best));
  }
  const bool one = shown.find(", ") == std::string::npos;
  return shown.empty() ? "" : StrCat("; the nearest name", one ? " is " : "s are ", shown);
}

// Follows a path component by component.
class PathSearch {
 public:
  PathSearch(const ErofsImage& image, std::string_view path) : image_(image), asked_(path) {
    left_ = std::string(path);
  }

  absl::StatusOr<FoundFile> Run(bool follow) {
    while (!left_.empty()) {
      const size_t begin = left_.find_first_not_of('/');
      if (begin == std::string::npos) return Directory();
      const size_t end = std::min(left_.find('/', begin), left_.size());
      const std::string name = left_.substr(begin, end - begin);
      left_.erase(0, end);
      if (name == ".") {
        if (left_.empty()) return Directory();
      } else if (name == "..") {
        if (!at_.empty()) at_.pop_back();
        if (left_.empty()) return Directory();
      } else {
        IMAGEFS_RETURN_IF_ERROR(Enter(name, follow || !left_.empty()));
      }
    }
    return FoundFile{Here(), Path()};
  }

 private:
  Nid Here() const { return at_.empty() ? image_.root() : at_.back().second; }
  std::string Path() const {
    std::string path;
    for (const auto& [name, nid] : at_) StrAppend(&path, "/", name);
    return path.empty() ? "/" : path;
  }
  // "ASKED: WHERE", or only the first if that is the same.
  std::string Names(const std::string& where) const {
    const std::string asked = PrintableName(asked_);
    return where == asked_ ? asked : StrCat(asked, ": ", PrintableName(where));
  }

  absl::StatusOr<FoundFile> Directory() const {
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, image_.GetStat(Here()));
    if (!S_ISDIR(stat.mode)) return absl::NotFoundError(StrCat(Names(Path()), ": not a directory"));
    return FoundFile{Here(), Path()};
  }

  absl::Status Enter(const std::string& name, bool follow) {
    const std::string path = Joined(Path(), name);
    const absl::StatusOr<std::optional<Nid>> found = image_.Lookup(Here(), name);
    if (absl::IsFailedPrecondition(found.status())) {
      return absl::NotFoundError(StrCat(Names(Path()), ": not a directory"));
    }
    IMAGEFS_RETURN_IF_ERROR(found.status());
    if (!found->has_value()) {
      return absl::NotFoundError(
          StrCat(Names(path), ": no such file", NearestNames(image_, Here(), name)));
    }
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, image_.GetStat(**found));
    if (!S_ISLNK(stat.mode) || !follow) {
      at_.emplace_back(name, **found);
      return absl::OkStatus();
    }
    if (++links_ > kMaxLinks) {
      return absl::FailedPreconditionError(
          StrCat(Names(path), ": too many levels of symbolic links"));
    }
    IMAGEFS_ASSIGN_OR_RETURN(const std::string target, image_.Readlink(**found));
    if (target.starts_with('/')) at_.clear();
    left_ = target + left_;
    return absl::OkStatus();
  }

  const ErofsImage& image_;
  const std::string_view asked_;
  std::string left_;  // of the path
  std::vector<std::pair<std::string, Nid>> at_;
  int links_ = 0;
};

}  // namespace

absl::StatusOr<FoundFile> FindFile(const ErofsImage& image, std::string_view path, bool follow) {
  if (!path.starts_with('/') || path.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(
        StrCat("\"", PrintableName(path), "\" is not an absolute path"));
  }
  return PathSearch(image, path).Run(follow);
}

absl::Status FileWalk::Enter(const Entry& entry) {
  if (!S_ISDIR(entry.stat.mode) || levels_.size() >= max_depth_) return absl::OkStatus();
  // Each directory has one name, so more of them than inodes means a loop.
  if (++directories_ > image_.inode_count()) {
    return absl::DataLossError("the index is damaged: its directories do not end");
  }
  Level level;
  level.directory = entry.stat.nid;
  level.path_bytes = entry.path.size();
  path_ = entry.path;
  levels_.push_back(std::move(level));
  return absl::OkStatus();
}

absl::Status FileWalk::Refill(Level& level) const {
  level.names.clear();
  level.next = 0;
  bool bad = false;
  bool full = false;
  IMAGEFS_RETURN_IF_ERROR(
      image_.ReadDir(level.directory, level.position, [&](const ErofsImage::DirentView& found) {
        full = level.names.size() == kNamesAtOnce;
        if (full) return false;
        level.position = found.next;
        if (found.name == "." || found.name == "..") return true;
        bad = !IsName(found.name);
        if (!bad) level.names.emplace_back(found.name, found.nid);
        return !bad;
      }));
  if (bad) return BadName(std::string_view(path_).substr(0, level.path_bytes));
  level.at_end = !full;
  return absl::OkStatus();
}

absl::StatusOr<std::optional<FileWalk::Entry>> FileWalk::Next() {
  std::optional<Entry> entry;
  if (!begun_) {
    begun_ = true;
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, image_.GetStat(start_.nid));
    entry = Entry{start_.path, stat};
  }
  while (!entry.has_value()) {
    if (levels_.empty()) return std::nullopt;
    Level& level = levels_.back();
    path_.resize(level.path_bytes);
    if (level.next == level.names.size()) {
      if (level.at_end) {
        levels_.pop_back();
        continue;
      }
      IMAGEFS_RETURN_IF_ERROR(Refill(level));
      continue;
    }
    const auto& [name, nid] = level.names[level.next++];
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, image_.GetStat(nid));
    entry = Entry{Joined(path_, name), stat};
  }
  IMAGEFS_RETURN_IF_ERROR(Enter(*entry));
  return entry;
}

absl::StatusOr<std::vector<Xattr>> FileXattrs(const Chain& chain, Nid nid) {
  if (!chain.index->has_xattrs()) return std::vector<Xattr>();
  IMAGEFS_ASSIGN_OR_RETURN(std::vector<Xattr> xattrs, chain.index->Xattrs(nid));
  std::erase_if(xattrs,
                [&](const Xattr& xattr) { return IsHiddenXattr(chain.overlay_form, xattr.name); });
  std::sort(xattrs.begin(), xattrs.end());
  return xattrs;
}

absl::StatusOr<std::vector<ByteRange>> DataRanges(const ErofsImage& image,
                                                  const ErofsImage::Stat& file) {
  std::vector<ByteRange> ranges;
  uint64_t offset = 0;
  while (offset < file.size) {
    IMAGEFS_ASSIGN_OR_RETURN(const Extent run, image.Map(file.nid, offset));
    const uint64_t end = run.file_offset + run.length;
    if (run.file_offset > offset || end <= offset) {
      return absl::DataLossError("the index maps a byte to a run that does not have it");
    }
    const uint64_t next = std::min(end, file.size);
    if (run.device != 0) {
      const uint64_t first = offset / kDataRangeUnit * kDataRangeUnit;
      const uint64_t last = std::min(RoundUp(next, kDataRangeUnit), file.size);
      if (!ranges.empty() && ranges.back().end >= first) {
        ranges.back().end = std::max(ranges.back().end, last);
      } else if (ranges.size() == kMaxDataRanges) {
        ranges.back().end = file.size;
        return ranges;
      } else {
        ranges.push_back({first, last});
      }
    }
    offset = next;
  }
  return ranges;
}

absl::Status LayerFinder::EnterParent(std::string_view parent) {
  if (parent_.has_value() && *parent_ == parent) return absl::OkStatus();
  parent_ = std::string(parent);
  directories_.assign(chain_.layers.size(), std::nullopt);
  for (size_t i = 0; i < chain_.layers.size(); ++i) {
    if (chain_.layers[i]->index == nullptr) continue;
    const ErofsImage& image = *chain_.layers[i]->index;
    std::optional<Nid> at = image.root();
    for (const std::string_view name : Split(parent, '/')) {
      if (name.empty()) continue;
      const absl::StatusOr<std::optional<Nid>> next = image.Lookup(*at, name);
      // Not a directory in this layer: whatever the path is, it is not from here.
      at = next.ok() ? *next : std::nullopt;
      if (absl::IsDataLoss(next.status())) return next.status();
      if (!at.has_value()) break;
    }
    directories_[i] = at;
  }
  return absl::OkStatus();
}

absl::StatusOr<const Layer*> LayerFinder::Find(const FileWalk::Entry& entry) {
  const size_t slash = entry.path.rfind('/');
  IMAGEFS_RETURN_IF_ERROR(EnterParent(std::string_view(entry.path).substr(0, slash)));
  const std::string_view name = std::string_view(entry.path).substr(slash + 1);
  for (size_t i = chain_.layers.size(); i-- > 0;) {
    if (!directories_[i].has_value()) continue;
    const ErofsImage& image = *chain_.layers[i]->index;
    std::optional<Nid> found = *directories_[i];
    if (!name.empty()) {
      const absl::StatusOr<std::optional<Nid>> child = image.Lookup(*found, name);
      if (absl::IsDataLoss(child.status())) return child.status();
      found = child.ok() ? *child : std::nullopt;
    }
    if (!found.has_value()) continue;
    IMAGEFS_ASSIGN_OR_RETURN(const ErofsImage::Stat stat, image.GetStat(*found));
    if ((stat.mode & S_IFMT) != (entry.stat.mode & S_IFMT)) continue;
    if (S_ISDIR(stat.mode)) {
      // Made only to hold something: its attributes come from below.
      IMAGEFS_ASSIGN_OR_RETURN(const auto implied, image.GetXattr(*found, kImpliedXattr));
      if (implied.has_value() && i > 0) continue;
    }
    return chain_.layers[i].get();
  }
  if (S_ISREG(entry.stat.mode) && entry.stat.size > 0) {
    IMAGEFS_ASSIGN_OR_RETURN(const Extent run, chain_.index->Map(entry.stat.nid, 0));
    if (run.device > 0 && run.device <= chain_.layers.size()) {
      return chain_.layers[run.device - 1].get();
    }
  }
  return nullptr;
}

}  // namespace imagefs
