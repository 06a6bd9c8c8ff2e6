// SPDX-License-Identifier: Apache-2.0
#include "image/erofs_layer.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/text.h"
#include "image/erofs_format.h"

namespace imagefs {
namespace {

constexpr uint32_t kMinBlockBits = 9, kMaxBlockBits = 16;
constexpr uint64_t kPiece = 512;  // alignment of the pieces of files in an index
constexpr uint64_t kMaxDataBytes = kPiece << 32;
// What a reader of uncompressed images may ignore: compression (refused where an inode uses it), a
// device table (refused unless empty), own xattr prefixes (refused where an xattr uses one).
constexpr uint32_t kKnownIncompat = 0x7f;
constexpr uint16_t kCompressedFull = 1, kCompressedCompact = 3;
constexpr uint32_t kChunkFormatMask = kChunkBitsMask | kChunkIndexes;
constexpr uint8_t kOwnPrefix = 0x80;
// By these, overlayfs finds a file's data elsewhere, or takes it for deleted.
constexpr std::string_view kReferring[] = {"trusted.overlay.metacopy", "trusted.overlay.redirect",
                                           "trusted.overlay.whiteout"};
constexpr uint64_t kMaxXattrBytes = 256 << 10;            // of one inode
constexpr uint64_t kMaxSharedXattrs = uint64_t{1} << 30;  // of all, in addition to the image's size

struct CompactInode {
  Le16 format;
  Le16 xattr_count;
  Le16 mode;
  Le16 nlink;
  Le32 size;
  Le32 reserved;
  Le32 u;
  Le32 ino;
  Le16 uid;
  Le16 gid;
  Le32 reserved2;
};
static_assert(sizeof(CompactInode) == 32 && alignof(CompactInode) == 1);

// An inode whose parts lie within the image.
struct InodeView {
  uint64_t nid = 0;
  uint16_t layout = 0;
  uint32_t u = 0;
  uint64_t size = 0;
  uint64_t xattrs = 0, xattr_bytes = 0;
  uint64_t end = 0;  // of the inode with its xattrs
  Inode attributes;
};

// Where bytes of an inode are: at `offset` in the image, or in a hole.
struct Run {
  uint64_t file_offset = 0, offset = 0, length = 0;
  bool hole = false;
};

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError(StrCat("its EROFS image is malformed: ", what));
}
absl::Status Malformed(const InodeView& inode, std::string_view what) {
  return Malformed(StrCat("inode ", inode.nid, " ", what));
}
absl::Status Unsupported(std::string_view what) {
  return absl::InvalidArgumentError(
      StrCat("its EROFS image ", what,
             ", which is not supported; make it with plain data (mkfs.erofs without -z)"));
}

class ErofsLayer {
 public:
  explicit ErofsLayer(std::string_view image)
      : image_(image), budget_(image.size()), shared_budget_(image.size() + kMaxSharedXattrs) {}

  absl::StatusOr<LayerBuilder::Result> Read() {
    IMAGEFS_RETURN_IF_ERROR(ReadSuper());
    end_ = RoundUp(image_.size(), kPiece);
    IMAGEFS_ASSIGN_OR_RETURN(const InodeView root, Load(super_->root_nid));
    if (!S_ISDIR(root.attributes.mode)) return Malformed("its root is not a directory");
    Inode& attributes = tree_.inode(Tree::kRoot);
    const InodeId parent = attributes.parent;
    attributes = root.attributes;
    attributes.parent = parent;
    IMAGEFS_RETURN_IF_ERROR(AddXattrs(root, Tree::kRoot));
    directories_.insert(root.nid);
    stack_.emplace_back(root, Tree::kRoot);
    while (!stack_.empty()) {
      const auto [inode, id] = std::move(stack_.back());
      stack_.pop_back();
      IMAGEFS_RETURN_IF_ERROR(ReadDirectory(inode, id));
    }
    if (end_ > kMaxDataBytes) {
      return absl::InvalidArgumentError(
          "the layer is larger than the 2 TiB that an index can name");
    }
    result_.data_size = end_;
    result_.tree = std::move(tree_);
    return std::move(result_);
  }

 private:
  template <typename T>
  const T* At(uint64_t offset) const {
    static_assert(alignof(T) == 1);
    if (offset > image_.size() || image_.size() - offset < sizeof(T)) return nullptr;
    return reinterpret_cast<const T*>(image_.data() + offset);
  }
  bool Inside(uint64_t offset, uint64_t length) const {
    return offset <= image_.size() && length <= image_.size() - offset;
  }
  // In a valid image no two inodes share metadata, so that all of it is at most the image.
  absl::Status Charge(uint64_t bytes) {
    if (bytes > budget_) return Malformed("its inodes overlap");
    budget_ -= bytes;
    return absl::OkStatus();
  }
  uint64_t BlockBytes() const { return uint64_t{1} << block_bits_; }

  absl::Status ReadSuper() {
    super_ = At<SuperBlock>(kSuperOffset);
    if (super_ == nullptr || super_->magic != kMagic) {
      return absl::InvalidArgumentError("it is not an EROFS image");
    }
    block_bits_ = super_->block_bits;
    if (block_bits_ < kMinBlockBits || block_bits_ > kMaxBlockBits) {
      return Malformed(StrCat("its blocks have 2^", block_bits_, " bytes"));
    }
    if ((super_->feature_incompat & ~kKnownIncompat) != 0) {
      return Unsupported(
          StrCat("has features that are not known (", uint32_t{super_->feature_incompat}, ")"));
    }
    if (super_->extra_devices != 0 && (super_->feature_incompat & kIncompatDeviceTable) != 0) {
      return Unsupported("has data in other files");
    }
    if (super_->directory_block_bits != 0)
      return Unsupported("has directory blocks of its own size");
    if (super_->epoch_nanoseconds >= 1'000'000'000) return Malformed("its time is impossible");
    return absl::OkStatus();
  }

  absl::StatusOr<InodeView> Load(uint64_t nid) const {
    InodeView out;
    out.nid = nid;
    const uint64_t base = uint64_t{super_->meta_block} << block_bits_;
    if (nid > image_.size() >> kSlotBits) return Malformed(out, "lies outside");
    const uint64_t at = base + (nid << kSlotBits);
    const CompactInode* compact = At<CompactInode>(at);
    if (compact == nullptr) return Malformed(out, "lies outside");
    const uint16_t format = compact->format;
    out.layout = (format >> 1) & 7;
    if (format >> 4 != 0) return Malformed(out, "has an unknown format");
    Inode& to = out.attributes;
    to.mode = compact->mode;
    uint64_t bytes = sizeof(CompactInode);
    if ((format & kFormatExtended) == 0) {
      out.size = compact->size;
      out.u = compact->u;
      to.uid = compact->uid;
      to.gid = compact->gid;
      to.mtime_seconds = static_cast<int64_t>(static_cast<uint64_t>(super_->epoch));
      to.mtime_nanoseconds = super_->epoch_nanoseconds;
    } else {
      const DiskInode* extended = At<DiskInode>(at);
      if (extended == nullptr) return Malformed(out, "lies outside");
      bytes = sizeof(DiskInode);
      out.size = extended->size;
      out.u = extended->u;
      to.uid = extended->uid;
      to.gid = extended->gid;
      to.mtime_seconds = static_cast<int64_t>(static_cast<uint64_t>(extended->mtime));
      to.mtime_nanoseconds = extended->mtime_nanoseconds;
    }
    constexpr uint32_t kNobody = std::numeric_limits<uint32_t>::max();  // -1 is no owner
    if (to.uid == kNobody || to.gid == kNobody) return Malformed(out, "has no owner");
    if (to.mtime_nanoseconds >= 1'000'000'000) return Malformed(out, "has an impossible time");
    if (out.size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Malformed(out, "has a negative size");
    }
    out.xattrs = at + bytes;
    if (const uint64_t count = compact->xattr_count; count != 0) {
      out.xattr_bytes = sizeof(XattrHeader) + kXattrAlign * (count - 1);
    }
    out.end = out.xattrs + out.xattr_bytes;
    if (out.end > image_.size()) return Malformed(out, "has xattrs that lie outside");
    return out;
  }

  // Calls `visit` with the runs of an inode's data, in order.
  absl::Status ForEachRun(const InodeView& inode,
                          absl::FunctionRef<absl::Status(const Run&)> visit) {
    if (inode.size == 0) return absl::OkStatus();
    switch (inode.layout) {
      case kFlatPlain:
        return VisitBlocks(inode, inode.size, visit);
      case kFlatInline: {
        const uint64_t tail_begin = (inode.size - 1) >> block_bits_ << block_bits_;
        IMAGEFS_RETURN_IF_ERROR(VisitBlocks(inode, tail_begin, visit));
        const uint64_t length = inode.size - tail_begin;
        const uint64_t block_end = RoundUp(inode.end + 1, BlockBytes());
        if (inode.end + length > block_end || !Inside(inode.end, length)) {
          return Malformed(inode, "has a tail that lies outside of its block");
        }
        IMAGEFS_RETURN_IF_ERROR(Charge(length));
        return visit({tail_begin, inode.end, length});
      }
      case kChunkBased:
        return VisitChunks(inode, visit);
      case kCompressedFull:
      case kCompressedCompact:
        return Unsupported("has compressed files");
      default:
        return Malformed(inode, "has an unknown layout");
    }
  }

  absl::Status VisitBlocks(const InodeView& inode, uint64_t length,
                           absl::FunctionRef<absl::Status(const Run&)> visit) const {
    if (length == 0) return absl::OkStatus();
    const Run run = {0, uint64_t{inode.u} << block_bits_, length, inode.u == kHoleBlock};
    if (!run.hole && !Inside(run.offset, length)) {
      return Malformed(inode, "has blocks that lie outside");
    }
    return visit(run);
  }

  absl::Status VisitChunks(const InodeView& inode,
                           absl::FunctionRef<absl::Status(const Run&)> visit) {
    const uint32_t format = inode.u & 0xffff;
    if ((format & ~kChunkFormatMask) != 0) return Malformed(inode, "has unknown chunks");
    const uint32_t chunk_bits = block_bits_ + (format & kChunkBitsMask);
    const bool indexes = (format & kChunkIndexes) != 0;
    const uint64_t unit = indexes ? sizeof(ChunkIndex) : sizeof(Le32);
    const uint64_t table = RoundUp(inode.end, unit);
    const uint64_t count = inode.size == 0 ? 0 : ((inode.size - 1) >> chunk_bits) + 1;
    if (count > image_.size() / unit || !Inside(table, count * unit)) {
      return Malformed(inode, "has chunks that lie outside");
    }
    IMAGEFS_RETURN_IF_ERROR(Charge(count * unit));
    for (uint64_t i = 0; i < count; ++i) {
      uint32_t block = 0;
      if (indexes) {
        const ChunkIndex* index = At<ChunkIndex>(table + i * unit);
        block = index->block;
        const bool elsewhere = index->device != 0 || index->reserved != 0;
        if (block != kHoleBlock && elsewhere) return Unsupported("has data in other files");
      } else {
        block = *At<Le32>(table + i * unit);
      }
      const uint64_t begin = i << chunk_bits;
      const uint64_t length = std::min(inode.size - begin, uint64_t{1} << chunk_bits);
      const Run run = {begin, uint64_t{block} << block_bits_, length, block == kHoleBlock};
      if (!run.hole && !Inside(run.offset, length)) {
        return Malformed(inode, "has chunks that lie outside");
      }
      IMAGEFS_RETURN_IF_ERROR(visit(run));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> ReadLink(const InodeView& inode) {
    if (inode.size == 0 || inode.size > kMaxSymlink) {
      return Malformed(inode, "has a target that is empty or longer than 4,095 bytes");
    }
    std::string target(inode.size, '\0');
    IMAGEFS_RETURN_IF_ERROR(ForEachRun(inode, [&](const Run& run) {
      if (!run.hole)
        target.replace(run.file_offset, run.length, image_.substr(run.offset, run.length));
      return absl::OkStatus();
    }));
    if (target.find('\0') != std::string::npos) return Malformed(inode, "has a target with NUL");
    return target;
  }

  absl::Status AddExtents(const InodeView& inode, InodeId id) {
    std::vector<Extent> extents;
    IMAGEFS_RETURN_IF_ERROR(ForEachRun(inode, [&](const Run& run) -> absl::Status {
      if (run.hole) return absl::OkStatus();
      Extent extent = {run.file_offset, run.offset, run.length, 1};
      if (run.offset % kPiece != 0) {
        extent.data_offset = end_;
        result_.moves.push_back({run.offset, end_, run.length});
        end_ += RoundUp(run.length, kPiece);
      }
      Extent* last = extents.empty() ? nullptr : &extents.back();
      if (last != nullptr && last->file_offset + last->length == extent.file_offset &&
          last->data_offset + last->length == extent.data_offset) {
        last->length += extent.length;
        return absl::OkStatus();
      }
      extents.push_back(extent);
      const uint64_t memory = extents.size() * sizeof(Extent);
      return Memory() + memory > kMaxTreeBytes ? TooManyNames() : absl::OkStatus();
    }));
    if (!extents.empty()) tree_.SetExtents(id, std::move(extents));
    return absl::OkStatus();
  }
  uint64_t Memory() const {
    return tree_.memory_bytes() + result_.moves.size() * sizeof(LayerBuilder::Move) +
           stack_.size() * sizeof(stack_[0]) + 32 * (links_.size() + directories_.size());
  }

  // Appends the xattr at `offset`; returns the offset after it.
  absl::StatusOr<uint64_t> ReadXattr(const InodeView& inode, uint64_t offset,
                                     std::vector<Xattr>& out) const {
    const XattrEntry* entry = At<XattrEntry>(offset);
    const uint64_t name = offset + sizeof(XattrEntry);
    if (entry == nullptr ||
        !Inside(name, uint64_t{entry->name_length} + uint64_t{entry->value_size})) {
      return Malformed(inode, "has xattrs that lie outside");
    }
    const uint64_t end = name + entry->name_length + entry->value_size;
    if ((entry->prefix & kOwnPrefix) != 0) return Unsupported("has xattr prefixes of its own");
    const std::string_view prefix = PrefixOf(entry->prefix);
    const std::string_view suffix = image_.substr(name, entry->name_length);
    if (suffix.find('\0') != std::string_view::npos) return Malformed(inode, "has a name with NUL");
    if (!prefix.empty()) {
      out.push_back({StrCat(prefix, suffix),
                     std::string(image_.substr(name + entry->name_length, entry->value_size))});
    }
    return RoundUp(end, kXattrAlign);
  }

  // "": one that Linux does not have.
  static std::string_view PrefixOf(uint8_t index) {
    const auto found = std::find_if(kXattrPrefixes.begin(), kXattrPrefixes.end(),
                                    [&](const XattrPrefix& one) { return one.index == index; });
    return found == kXattrPrefixes.end() ? std::string_view() : found->text;
  }

  absl::StatusOr<std::vector<Xattr>> ReadXattrs(const InodeView& inode) {
    std::vector<Xattr> out;
    if (inode.xattr_bytes == 0) return out;
    const auto* header = At<XattrHeader>(inode.xattrs);
    uint64_t at = inode.xattrs + sizeof(XattrHeader);
    const uint64_t shared = header->shared_count;
    if (shared * sizeof(Le32) > inode.end - at) return Malformed(inode, "has too many xattrs");
    uint64_t bytes = inode.xattr_bytes;
    for (uint64_t i = 0; i < shared; ++i, at += sizeof(Le32)) {
      const uint64_t place =
          (uint64_t{super_->xattr_block} << block_bits_) + uint64_t{*At<Le32>(at)} * sizeof(Le32);
      IMAGEFS_ASSIGN_OR_RETURN(const uint64_t end, ReadXattr(inode, place, out));
      bytes += end - place;
      if (bytes > kMaxXattrBytes) return Malformed(inode, "has more than 256 KiB of xattrs");
      if (end - place > shared_budget_) return Malformed("it shares xattrs too often");
      shared_budget_ -= end - place;
    }
    while (at + sizeof(XattrEntry) <= inode.end) {
      IMAGEFS_ASSIGN_OR_RETURN(at, ReadXattr(inode, at, out));
    }
    if (at > inode.end) return Malformed(inode, "has xattrs that lie outside");
    std::sort(out.begin(), out.end());
    const auto same = [](const Xattr& a, const Xattr& b) { return a.name == b.name; };
    if (std::adjacent_find(out.begin(), out.end(), same) != out.end()) {
      return Malformed(inode, "has an xattr twice");
    }
    return out;
  }

  absl::Status AddXattrs(const InodeView& inode, InodeId id) {
    IMAGEFS_ASSIGN_OR_RETURN(std::vector<Xattr> xattrs, ReadXattrs(inode));
    for (const Xattr& xattr : xattrs) {
      if (xattr.name == kOpaqueXattr) tree_.inode(id).opaque = xattr.value == "y";
      for (const std::string_view name : kReferring) {
        if (xattr.name == name) return Unsupported("refers to files of other layers");
      }
    }
    std::erase_if(xattrs, [](const Xattr& xattr) {
      return xattr.name.starts_with("trusted.overlay.") ||
             xattr.name.starts_with("trusted.imagefs.");
    });
    if (!xattrs.empty()) tree_.SetXattrs(id, std::move(xattrs));
    return absl::OkStatus();
  }

  absl::Status ReadDirectory(const InodeView& inode, InodeId id) {
    std::string before;
    IMAGEFS_RETURN_IF_ERROR(Charge(inode.size - inode.size % BlockBytes()));
    return ForEachRun(inode, [&](const Run& run) -> absl::Status {
      if (run.hole) return Malformed(inode, "is a directory with a hole");
      for (uint64_t at = 0; at < run.length; at += BlockBytes()) {
        const uint64_t length = std::min(run.length - at, BlockBytes());
        IMAGEFS_RETURN_IF_ERROR(
            ReadBlock(inode, image_.substr(run.offset + at, length), id, before));
      }
      return absl::OkStatus();
    });
  }

  // A block of a directory: entries, then their names.
  absl::Status ReadBlock(const InodeView& inode, std::string_view block, InodeId id,
                         std::string& before) {
    const auto entry = [&](uint64_t i) {
      return reinterpret_cast<const DiskDirent*>(block.data() + i * sizeof(DiskDirent));
    };
    if (block.size() < sizeof(DiskDirent))
      return Malformed(inode, "has a directory block cut short");
    const uint64_t first = entry(0)->name_offset;
    const uint64_t count = first / sizeof(DiskDirent);
    if (count == 0 || first % sizeof(DiskDirent) != 0 || first > block.size()) {
      return Malformed(inode, "has a directory block without entries");
    }
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t begin = entry(i)->name_offset;
      const uint64_t end = i + 1 < count ? uint64_t{entry(i + 1)->name_offset} : block.size();
      if (begin < first || end > block.size() || begin >= end) {
        return Malformed(inode, "has a directory entry without a name");
      }
      std::string_view name = block.substr(begin, end - begin);
      if (i + 1 == count) name = name.substr(0, name.find('\0'));
      if (name.empty() || name.size() > kMaxName || name <= before ||
          name.find('/') != std::string_view::npos || name.find('\0') != std::string_view::npos) {
        return Malformed(inode, "has a directory entry with an impossible name, or out of order");
      }
      before = name;
      if (name == "." || name == "..") continue;
      IMAGEFS_RETURN_IF_ERROR(
          Annotate(AddEntry(id, name, entry(i)->nid), StrCat("\"", Printable(name), "\"")));
      if (Memory() > kMaxTreeBytes) return TooManyNames();
    }
    return absl::OkStatus();
  }

  absl::Status AddEntry(InodeId directory, std::string_view name, uint64_t nid) {
    if (const auto it = links_.find(nid); it != links_.end()) {
      tree_.Link(directory, name, it->second);
      return absl::OkStatus();
    }
    IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, Load(nid));
    IMAGEFS_RETURN_IF_ERROR(Charge(inode.end - inode.xattrs + sizeof(CompactInode)));
    Inode attributes = inode.attributes;
    switch (attributes.mode & S_IFMT) {
      case S_IFDIR:
        if (!directories_.insert(nid).second) return Malformed(inode, "is a directory twice");
        break;
      case S_IFREG:
        attributes.size = inode.size;
        break;
      case S_IFLNK: {
        IMAGEFS_ASSIGN_OR_RETURN(const std::string target, ReadLink(inode));
        attributes.size = target.size();
        attributes.symlink = tree_.Intern(target);
        break;
      }
      case S_IFCHR:
      case S_IFBLK:  // as the kernel's new_encode_dev
        attributes.rdev_major = (inode.u >> 8) & 0xfff;
        attributes.rdev_minor = (inode.u & 0xff) | ((inode.u >> 12) & 0xfff00);
        break;
      case S_IFIFO:
      case S_IFSOCK:
        break;
      default:
        return Malformed(inode, "has no known file type");
    }
    const InodeId id = tree_.NewInode(attributes);
    tree_.Link(directory, name, id);
    IMAGEFS_RETURN_IF_ERROR(AddXattrs(inode, id));
    if (S_ISDIR(attributes.mode)) {
      stack_.emplace_back(inode, id);
      return absl::OkStatus();
    }
    links_.emplace(nid, id);
    return S_ISREG(attributes.mode) ? AddExtents(inode, id) : absl::OkStatus();
  }

  const std::string_view image_;
  const SuperBlock* super_ = nullptr;  // in the image
  uint32_t block_bits_ = 0;
  uint64_t budget_, shared_budget_;
  uint64_t end_ = 0;  // of the data file so far
  Tree tree_;
  LayerBuilder::Result result_;
  std::vector<std::pair<InodeView, InodeId>> stack_;  // directories to be read
  absl::flat_hash_map<uint64_t, InodeId> links_;      // files, by nid: a second name is a hard link
  absl::flat_hash_set<uint64_t> directories_;
};

}  // namespace

absl::StatusOr<LayerBuilder::Result> ReadErofsLayer(std::string_view image) {
  return ErofsLayer(image).Read();
}

}  // namespace imagefs
