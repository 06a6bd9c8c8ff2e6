// SPDX-License-Identifier: Apache-2.0
// Two passes over the tree in the same order. The layout pass assigns a place to every inode, using
// four bytes per inode and four per name; the emission pass repeats the placement and writes
// sequentially through one buffer.
//
// Order: the root's inode; then, for each directory in pre-order, its blocks followed by the inodes
// of its children in name order. Listing a directory with attributes, and walking a whole tree,
// thus read sequentially.

#include "image/erofs_writer.h"

#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "absl/types/span.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "image/erofs_format.h"

namespace imagefs {
namespace {

constexpr size_t kBufferBytes = 1 << 20;
// A sparse file is described in the largest chunks that its segments allow. These limits (32 MiB of
// index for one file, 128 MiB for an image) prevent a small archive from producing a huge index.
constexpr uint64_t kMaxChunksOfFile = uint64_t{1} << 22;
constexpr uint64_t kMaxChunks = uint64_t{1} << 24;
constexpr uint64_t kMaxXattrBytes = sizeof(XattrHeader) + 4 * (uint64_t{0xffff} - 1);
// The range of a 32-bit slot or block number, less one block: the highest block number is a hole.
constexpr uint64_t kMaxImageBytes = uint64_t{0xffffffff} << kSlotBits;
constexpr uint64_t kMaxDeviceBlocks = kHoleBlock;

// Buffered sequential writer to a file.
class Output {
 public:
  explicit Output(int fd) : fd_(fd) { buffer_.reserve(kBufferBytes); }

  uint64_t offset() const { return written_ + buffer_.size(); }

  absl::Status Append(std::string_view data) {
    if (buffer_.size() + data.size() > kBufferBytes) IMAGEFS_RETURN_IF_ERROR(Flush());
    buffer_.append(data);
    return absl::OkStatus();
  }

  template <typename T>
  absl::Status AppendStruct(const T& value) {
    return Append(std::string_view(reinterpret_cast<const char*>(&value), sizeof(T)));
  }

  // Writes zeros up to `offset`. REQUIRES: offset >= this->offset().
  absl::Status PadTo(uint64_t offset) {
    static constexpr char kZeros[kBlockSize] = {};
    while (this->offset() < offset) {
      const uint64_t n = std::min<uint64_t>(offset - this->offset(), sizeof(kZeros));
      IMAGEFS_RETURN_IF_ERROR(Append(std::string_view(kZeros, n)));
    }
    return absl::OkStatus();
  }

  absl::Status Flush() {
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(fd_, buffer_, written_));
    written_ += buffer_.size();
    buffer_.clear();
    return absl::OkStatus();
  }

 private:
  const int fd_;
  uint64_t written_ = 0;
  std::string buffer_;
};

struct PlannedXattr {
  uint8_t prefix = 0;
  std::string_view name;  // without the prefix
  std::string_view value;
};

// Contents of an inode and the data after it, without its place.
struct Plan {
  uint16_t layout = kFlatPlain;
  uint64_t size = 0;
  uint64_t xattr_bytes = 0;  // including the header; 0 = none
  uint64_t block_bytes = 0;  // data in whole blocks, stored separately
  uint64_t tail_bytes = 0;   // data stored after the inode
  uint32_t chunk_bits = 0;
  uint64_t chunk_count = 0;
  std::vector<PlannedXattr> xattrs;
};

// Allocates space in ascending order; deterministic.
class Allocator {
 public:
  explicit Allocator(uint64_t start) : cursor_(start) {}

  uint64_t cursor() const { return cursor_; }

  uint64_t PlaceBlocks(uint64_t bytes) {
    const uint64_t at = RoundUp(cursor_, kBlockSize);
    cursor_ = at + RoundUp(bytes, kBlockSize);
    return at;
  }

  // A tail must lie within one block, but the inode before it may straddle a block boundary. So the
  // inode moves only as far as needed for the tail to start at the next block.
  uint64_t PlaceInode(const Plan& plan) {
    const uint64_t head = sizeof(DiskInode) + plan.xattr_bytes;
    uint64_t at = RoundUp(cursor_, kSlotSize);
    if ((at + head) % kBlockSize + plan.tail_bytes > kBlockSize) {
      at = RoundUp(RoundUp(at + head, kBlockSize) - head, kSlotSize);
    }
    cursor_ = at + head + plan.tail_bytes;
    if (plan.layout == kChunkBased) {
      cursor_ = RoundUp(cursor_, sizeof(ChunkIndex)) + plan.chunk_count * sizeof(ChunkIndex);
    }
    return at;
  }

 private:
  uint64_t cursor_;
};

// The entries of a directory, with "." and ".." in their place in name order.
class EntryList {
 public:
  EntryList(const Tree& tree, absl::Span<const DirentId> children)
      : tree_(tree), children_(children), dot_(Before(".")), dotdot_(Before("..") + 1) {}

  size_t size() const { return children_.size() + 2; }
  bool IsDot(size_t i) const { return i == dot_; }
  bool IsDotDot(size_t i) const { return i == dotdot_; }
  // REQUIRES: neither IsDot nor IsDotDot.
  const Dirent& Child(size_t i) const {
    return tree_.dirent(children_[i - (i > dot_ ? 1 : 0) - (i > dotdot_ ? 1 : 0)]);
  }
  std::string_view Name(size_t i) const {
    return IsDot(i) ? "." : IsDotDot(i) ? ".." : Child(i).name;
  }

  // Returns one past the last entry of the block that starts with entry `first`, and the bytes
  // used.
  std::pair<size_t, uint32_t> PackBlock(size_t first) const {
    uint32_t used = 0;
    size_t i = first;
    for (; i < size(); ++i) {
      const uint32_t need = static_cast<uint32_t>(sizeof(DiskDirent) + Name(i).size());
      if (used + need > kBlockSize) break;
      used += need;
    }
    return {i, used};
  }

 private:
  size_t Before(std::string_view name) const {
    return static_cast<size_t>(std::lower_bound(children_.begin(), children_.end(), name,
                                                [this](DirentId id, std::string_view n) {
                                                  return tree_.dirent(id).name < n;
                                                }) -
                               children_.begin());
  }

  const Tree& tree_;
  const absl::Span<const DirentId> children_;
  const size_t dot_;
  const size_t dotdot_;
};

uint8_t DirentType(uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return kTypeRegular;
    case S_IFDIR:
      return kTypeDirectory;
    case S_IFCHR:
      return kTypeCharacter;
    case S_IFBLK:
      return kTypeBlock;
    case S_IFIFO:
      return kTypeFifo;
    case S_IFSOCK:
      return kTypeSocket;
    case S_IFLNK:
      return kTypeSymlink;
    default:
      return 0;
  }
}

absl::Status CheckName(std::string_view name) {
  if (name.empty() || name == "." || name == "..") {
    return absl::InvalidArgumentError("a file cannot have this name; rebuild the image");
  }
  if (name.size() > kMaxName) {
    return absl::InvalidArgumentError("the name is longer than 255 bytes; rebuild the image");
  }
  if (name.find('\0') != std::string_view::npos || name.find('/') != std::string_view::npos) {
    return absl::InvalidArgumentError("the name contains a NUL or a slash; rebuild the image");
  }
  return absl::OkStatus();
}

// Returns the prefix under which `name` is stored on a file of this type; nullptr if the kernel
// would not accept it there, in which case an unpacking runtime omits it as well.
const XattrPrefix* FindPrefix(uint32_t mode, std::string_view name) {
  for (const XattrPrefix& prefix : kXattrPrefixes) {
    if (prefix.whole ? name != prefix.text : !name.starts_with(prefix.text)) continue;
    if (!prefix.whole && name.size() == prefix.text.size()) return nullptr;
    if (name.size() > kMaxName || name.find('\0') != std::string_view::npos) return nullptr;
    const bool is_acl = prefix.whole;
    if (is_acl && S_ISLNK(mode)) return nullptr;
    const bool is_user = prefix.text == "user.";
    if (is_user && !S_ISREG(mode) && !S_ISDIR(mode)) return nullptr;
    return &prefix;
  }
  return nullptr;
}

uint64_t XattrBytes(const PlannedXattr& xattr) {
  return RoundUp(sizeof(XattrEntry) + xattr.name.size() + xattr.value.size(), kXattrAlign);
}

uint64_t EndBlock(const Extent& extent) {
  return RoundUp(extent.file_offset + extent.length, kBlockSize) >> kBlockBits;
}

// The kernel's device number encoding (new_encode_dev).
absl::StatusOr<uint32_t> EncodeDevice(uint32_t major, uint32_t minor) {
  if (major > 0xfff || minor > 0xfffff) {
    return absl::InvalidArgumentError(StrCat("device number ", major, ":", minor,
                                             " is larger than Linux supports; rebuild the image"));
  }
  return (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
}

class ErofsWriter {
 public:
  ErofsWriter(const Tree& tree, const ErofsWriterOptions& options, int fd)
      : tree_(tree),
        options_(options),
        start_(std::max<uint64_t>(
            kSuperOffset + kBlockSize,
            RoundUp(kDeviceTableOffset + options.devices.size() * sizeof(DeviceEntry), kSlotSize))),
        output_(fd) {}

  absl::Status Write() {
    IMAGEFS_RETURN_IF_ERROR(CheckDevices());
    IMAGEFS_RETURN_IF_ERROR(Layout());
    return Emit();
  }

 private:
  struct Directory {
    InodeId inode = kNoId;
    uint32_t first_child = 0;  // index into children_
    uint32_t child_count = 0;
    uint32_t first_subdirectory = 0;  // index into directories_
    uint32_t subdirectory_count = 0;
    uint32_t size = 0;
    uint32_t tail_entry = 0;  // first entry of the last block
    uint32_t block = 0;       // first of the blocks that are not inline
  };

  EntryList Entries(const Directory& directory) const {
    return EntryList(tree_, absl::MakeConstSpan(children_).subspan(directory.first_child,
                                                                   directory.child_count));
  }

  absl::Status CheckDevices() const;
  void NoteXattrs(InodeId inode);
  absl::Status Layout();
  absl::Status LayoutDirectory(Allocator& allocator, uint32_t index);
  absl::Status AddDirectory(InodeId id);
  uint64_t SlotOffset(InodeId id) const { return uint64_t{slots_[id]} << kSlotBits; }
  absl::Status SetSlot(InodeId id, uint64_t offset);

  absl::StatusOr<Plan> MakePlan(InodeId id, const Directory* directory) const;
  absl::Status PlanXattrs(InodeId id, Plan& plan) const;
  absl::Status PlanChunks(InodeId id, Plan& plan) const;
  absl::Status CheckExtents(InodeId id) const;
  void PlanFlat(Plan& plan) const;

  // Calls `visit` for every directory, in image order.
  template <typename Visit>
  absl::Status Walk(Visit visit);

  absl::Status Emit();
  absl::Status EmitSuperBlock();
  absl::Status EmitDirectory(Allocator& allocator, const Directory& directory);
  absl::Status EmitInode(Allocator& allocator, InodeId id, const Directory* directory);
  absl::Status EmitXattrs(const Plan& plan);
  absl::Status EmitChunks(InodeId id, const Plan& plan);
  absl::Status EmitBlock(const Directory& directory, const EntryList& entries, size_t first,
                         size_t last);

  const Tree& tree_;
  const ErofsWriterOptions& options_;
  const uint64_t start_;  // offset of the metadata

  std::vector<uint32_t> slots_;  // by InodeId; 0 = not placed yet
  std::vector<DirentId> children_;
  std::vector<Directory> directories_;
  uint64_t end_ = 0;  // offset of the end of the metadata
  uint64_t inode_count_ = 0;
  uint64_t chunk_count_ = 0;
  uint8_t xattr_flags_ = 0;  // kIndexHas...

  Output output_;
};

absl::Status ErofsWriter::CheckDevices() const {
  if (options_.devices.size() > std::numeric_limits<uint16_t>::max() ||
      start_ >> kSlotBits > std::numeric_limits<uint16_t>::max()) {
    return absl::InvalidArgumentError(
        StrCat("an index cannot name ", options_.devices.size(), " data files"));
  }
  for (const DeviceSlot& device : options_.devices) {
    if (device.tag.empty() || device.tag.size() > sizeof(DeviceEntry::tag)) {
      return absl::InvalidArgumentError("the tag of a data file must have 1 to 64 bytes");
    }
    if (device.size_bytes % kBlockSize != 0) {
      return absl::InvalidArgumentError(StrCat("data file ", device.tag, " has ", device.size_bytes,
                                               " bytes, which is not a multiple of 512"));
    }
    if (device.size_bytes >> kBlockBits > kMaxDeviceBlocks) {
      return absl::InvalidArgumentError(
          StrCat("data file ", device.tag, " is larger than 2 TiB; split the layer"));
    }
  }
  return absl::OkStatus();
}

template <typename Visit>
absl::Status ErofsWriter::Walk(Visit visit) {
  std::vector<uint32_t> stack = {0};
  while (!stack.empty()) {
    const uint32_t index = stack.back();
    stack.pop_back();
    IMAGEFS_RETURN_IF_ERROR(visit(index));
    const Directory& directory = directories_[index];
    for (uint32_t i = directory.subdirectory_count; i > 0; --i) {
      stack.push_back(directory.first_subdirectory + i - 1);
    }
  }
  return absl::OkStatus();
}

// ---- Layout

void ErofsWriter::NoteXattrs(InodeId inode) {
  xattr_flags_ |= kIndexHasXattrs;
  for (const Xattr& xattr : tree_.Xattrs(inode)) {
    if (xattr.name.starts_with("system.posix_acl_")) xattr_flags_ |= kIndexHasAcls;
  }
}

absl::Status ErofsWriter::Layout() {
  slots_.assign(tree_.inode_count(), 0);
  children_.reserve(tree_.inode_count());
  Allocator allocator(start_);
  IMAGEFS_RETURN_IF_ERROR(AddDirectory(Tree::kRoot));
  IMAGEFS_ASSIGN_OR_RETURN(const Plan root, MakePlan(Tree::kRoot, &directories_[0]));
  if (root.xattr_bytes > 0) NoteXattrs(Tree::kRoot);
  IMAGEFS_RETURN_IF_ERROR(SetSlot(Tree::kRoot, allocator.PlaceInode(root)));
  if (slots_[Tree::kRoot] > std::numeric_limits<uint16_t>::max()) {
    return absl::InvalidArgumentError("too many data files: the root inode is out of reach");
  }
  IMAGEFS_RETURN_IF_ERROR(Walk([&](uint32_t index) { return LayoutDirectory(allocator, index); }));
  end_ = allocator.cursor();
  return absl::OkStatus();
}

absl::Status ErofsWriter::LayoutDirectory(Allocator& allocator, uint32_t index) {
  {
    Directory& directory = directories_[index];
    IMAGEFS_ASSIGN_OR_RETURN(const Plan plan, MakePlan(directory.inode, &directory));
    if (plan.block_bytes > 0) {
      directory.block =
          static_cast<uint32_t>(allocator.PlaceBlocks(plan.block_bytes) >> kBlockBits);
    }
    directory.first_subdirectory = static_cast<uint32_t>(directories_.size());
  }
  const uint32_t first = directories_[index].first_child;
  const uint32_t count = directories_[index].child_count;
  for (uint32_t i = first; i < first + count; ++i) {
    const Dirent& dirent = tree_.dirent(children_[i]);
    if (slots_[dirent.inode] != 0) continue;  // another name of a placed file
    const auto place = [&]() -> absl::Status {
      IMAGEFS_RETURN_IF_ERROR(CheckName(dirent.name));
      const bool is_directory = S_ISDIR(tree_.inode(dirent.inode).mode);
      if (is_directory) IMAGEFS_RETURN_IF_ERROR(AddDirectory(dirent.inode));
      IMAGEFS_ASSIGN_OR_RETURN(
          const Plan plan, MakePlan(dirent.inode, is_directory ? &directories_.back() : nullptr));
      if (plan.block_bytes > 0 && !is_directory) allocator.PlaceBlocks(plan.block_bytes);
      if (plan.xattr_bytes > 0) NoteXattrs(dirent.inode);
      chunk_count_ += plan.chunk_count;
      if (chunk_count_ > kMaxChunks) {
        return absl::ResourceExhaustedError(
            "the image's sparse files have too many segments; pack them without holes");
      }
      return SetSlot(dirent.inode, allocator.PlaceInode(plan));
    };
    if (absl::Status status = place(); !status.ok()) {
      return Annotate(status, StrCat("entry \"", Printable(dirent.name), "\""));
    }
  }
  directories_[index].subdirectory_count =
      static_cast<uint32_t>(directories_.size()) - directories_[index].first_subdirectory;
  return absl::OkStatus();
}

absl::Status ErofsWriter::SetSlot(InodeId id, uint64_t offset) {
  if (offset > kMaxImageBytes) {
    return absl::ResourceExhaustedError("the index would be larger than 128 GiB");
  }
  slots_[id] = static_cast<uint32_t>(offset >> kSlotBits);
  ++inode_count_;
  return absl::OkStatus();
}

absl::Status ErofsWriter::AddDirectory(InodeId id) {
  Directory directory;
  directory.inode = id;
  directory.first_child = static_cast<uint32_t>(children_.size());
  const std::vector<DirentId> children = tree_.SortedChildren(id);
  children_.insert(children_.end(), children.begin(), children.end());
  directory.child_count = static_cast<uint32_t>(children.size());

  const EntryList entries = Entries(directory);
  uint64_t size = 0;
  for (size_t first = 0; first < entries.size();) {
    const auto [last, used] = entries.PackBlock(first);
    if (last == first) {
      return absl::InvalidArgumentError(
          StrCat("a name of ", entries.Name(first).size(),
                 " bytes is longer than the 255 that Linux allows; rebuild the image"));
    }
    directory.tail_entry = static_cast<uint32_t>(first);
    size = RoundUp(size, kBlockSize) + used;
    first = last;
  }
  if (size > std::numeric_limits<uint32_t>::max()) {
    return absl::ResourceExhaustedError("a directory has more than 4 GiB of names");
  }
  directory.size = static_cast<uint32_t>(size);
  directories_.push_back(directory);
  return absl::OkStatus();
}

// ---- Plans

absl::StatusOr<Plan> ErofsWriter::MakePlan(InodeId id, const Directory* directory) const {
  const Inode& inode = tree_.inode(id);
  Plan plan;
  IMAGEFS_RETURN_IF_ERROR(PlanXattrs(id, plan));
  switch (inode.mode & S_IFMT) {
    case S_IFREG:
      plan.size = inode.size;
      IMAGEFS_RETURN_IF_ERROR(PlanChunks(id, plan));
      break;
    case S_IFDIR:
      plan.size = directory->size;
      PlanFlat(plan);
      break;
    case S_IFLNK:
      if (inode.symlink.empty() || inode.symlink.size() > kMaxSymlink ||
          inode.symlink.find('\0') != std::string_view::npos) {
        return absl::InvalidArgumentError(
            "the target of the symbolic link is empty, longer than 4095 bytes or contains a NUL; "
            "rebuild the image");
      }
      plan.size = inode.symlink.size();
      PlanFlat(plan);
      break;
    case S_IFCHR:
    case S_IFBLK:
    case S_IFIFO:
    case S_IFSOCK:
      break;
    default:
      return absl::InvalidArgumentError(
          StrCat("mode ", absl::Hex(inode.mode), " has no known file type"));
  }
  return plan;
}

absl::Status ErofsWriter::PlanXattrs(InodeId id, Plan& plan) const {
  const Inode& inode = tree_.inode(id);
  const auto add = [&](std::string_view name, std::string_view value) -> absl::Status {
    const XattrPrefix* prefix = FindPrefix(inode.mode, name);
    if (prefix == nullptr) return absl::OkStatus();
    if (value.size() > std::numeric_limits<uint16_t>::max()) {
      return absl::InvalidArgumentError(
          StrCat("the value of xattr ", Printable(name), " has more than 65535 bytes; remove it"));
    }
    plan.xattrs.push_back({prefix->index, name.substr(prefix->text.size()), value});
    plan.xattr_bytes += XattrBytes(plan.xattrs.back());
    return absl::OkStatus();
  };
  // Markers first: overlayfs queries one on every lookup.
  if (options_.overlay_form && inode.opaque) IMAGEFS_RETURN_IF_ERROR(add(kOpaqueXattr, "y"));
  if (options_.overlay_form && inode.implied) IMAGEFS_RETURN_IF_ERROR(add(kImpliedXattr, "y"));
  for (const Xattr& xattr : tree_.Xattrs(id)) {
    IMAGEFS_RETURN_IF_ERROR(add(xattr.name, xattr.value));
  }
  if (plan.xattr_bytes > 0) plan.xattr_bytes += sizeof(XattrHeader);
  if (plan.xattr_bytes > kMaxXattrBytes) {
    return absl::InvalidArgumentError("the xattrs have more than 256 KiB; remove some");
  }
  return absl::OkStatus();
}

void ErofsWriter::PlanFlat(Plan& plan) const {
  const uint64_t tail = plan.size % kBlockSize;
  if (tail > 0 && sizeof(DiskInode) + plan.xattr_bytes + tail <= kBlockSize) {
    plan.layout = kFlatInline;
    plan.tail_bytes = tail;
  }
  plan.block_bytes = RoundUp(plan.size - plan.tail_bytes, kBlockSize);
}

absl::Status ErofsWriter::CheckExtents(InodeId id) const {
  uint64_t end = 0;
  for (const Extent& extent : tree_.Extents(id)) {
    if (extent.file_offset % kBlockSize != 0 || extent.data_offset % kBlockSize != 0 ||
        extent.file_offset < end || extent.length == 0 ||
        extent.length > std::numeric_limits<uint64_t>::max() - extent.file_offset ||
        extent.file_offset + extent.length > tree_.inode(id).size) {
      return absl::InternalError(
          "the segments of a file are unsorted, unaligned, or extend beyond its end");
    }
    end = extent.file_offset + extent.length;
    if (extent.device == 0 || extent.device > options_.devices.size()) {
      return absl::InternalError(
          StrCat("data file ", extent.device, " of ", options_.devices.size(), " does not exist"));
    }
    const uint64_t device_bytes = options_.devices[extent.device - 1].size_bytes;
    if (extent.data_offset > device_bytes || extent.length > device_bytes - extent.data_offset) {
      return absl::InvalidArgumentError(
          StrCat("its bytes extend beyond the end of data file ", extent.device));
    }
  }
  return absl::OkStatus();
}

// Uses a single chunk for a contiguous file. Otherwise uses the largest chunk size at which no
// chunk contains a boundary between segments or holes.
absl::Status ErofsWriter::PlanChunks(InodeId id, Plan& plan) const {
  if (plan.size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::InvalidArgumentError("the file is larger than Linux can read; rebuild the image");
  }
  IMAGEFS_RETURN_IF_ERROR(CheckExtents(id));
  if (plan.size == 0) return absl::OkStatus();  // no data, no blocks
  plan.layout = kChunkBased;
  const uint64_t blocks = RoundUp(plan.size, kBlockSize) >> kBlockBits;
  uint64_t cuts = 0;  // bitwise OR of the block numbers of all boundaries
  uint64_t end = 0;
  const Extent* before = nullptr;
  for (const Extent& extent : tree_.Extents(id)) {
    const uint64_t begin = extent.file_offset >> kBlockBits;
    const bool goes_on =
        before != nullptr && begin == end && before->device == extent.device &&
        before->data_offset - before->file_offset == extent.data_offset - extent.file_offset;
    if (!goes_on) cuts |= end | begin;
    end = EndBlock(extent);
    before = &extent;
  }
  if (end < blocks) cuts |= end;
  plan.chunk_bits =
      static_cast<uint32_t>(cuts != 0 ? std::countr_zero(cuts) : std::bit_width(blocks - 1));
  plan.chunk_bits = std::min(plan.chunk_bits, kChunkBitsMask);
  plan.chunk_count = ((blocks - 1) >> plan.chunk_bits) + 1;
  if (plan.chunk_count > kMaxChunksOfFile) {
    return absl::ResourceExhaustedError(
        "the sparse file has too many segments for its size; pack it without holes");
  }
  return absl::OkStatus();
}

// ---- Emission

absl::Status ErofsWriter::Emit() {
  IMAGEFS_RETURN_IF_ERROR(EmitSuperBlock());
  Allocator allocator(start_);
  IMAGEFS_RETURN_IF_ERROR(EmitInode(allocator, Tree::kRoot, &directories_[0]));
  IMAGEFS_RETURN_IF_ERROR(
      Walk([&](uint32_t index) { return EmitDirectory(allocator, directories_[index]); }));
  IMAGEFS_RETURN_IF_ERROR(output_.PadTo(RoundUp(end_, kBlockSize)));
  return output_.Flush();
}

absl::Status ErofsWriter::EmitSuperBlock() {
  SuperBlock super;
  super.magic = kMagic;
  super.feature_compat = kCompatSuperChecksum | kCompatMtime;
  super.block_bits = kBlockBits;
  super.root_nid = static_cast<uint16_t>(slots_[Tree::kRoot]);
  super.inode_count = inode_count_;
  super.blocks = static_cast<uint32_t>(RoundUp(end_, kBlockSize) >> kBlockBits);
  std::copy(kVolumeName.begin(), kVolumeName.end(), super.volume_name.begin());
  super.volume_name[kVolumeVersionAt] = static_cast<char>(kIndexVersion);
  super.volume_name[kVolumeFlagsAt] =
      static_cast<char>(xattr_flags_ | (options_.overlay_form ? kIndexOverlayForm : 0));
  super.feature_incompat = (chunk_count_ > 0 ? kIncompatChunkedFile : 0) |
                           (options_.devices.empty() ? 0 : kIncompatDeviceTable);
  super.extra_devices = static_cast<uint16_t>(options_.devices.size());
  super.device_table_slot = kDeviceTableOffset / sizeof(DeviceEntry);

  std::string head(start_, '\0');
  for (size_t i = 0; i < options_.devices.size(); ++i) {
    const DeviceSlot& slot = options_.devices[i];
    DeviceEntry entry;
    std::copy(slot.tag.begin(), slot.tag.end(), entry.tag.begin());
    entry.blocks = static_cast<uint32_t>(slot.size_bytes >> kBlockBits);
    std::memcpy(&head[kDeviceTableOffset + i * sizeof(entry)], &entry, sizeof(entry));
  }
  // The checksum covers the superblock's whole block; the metadata starts after it.
  std::memcpy(&head[kSuperOffset], &super, sizeof(super));
  super.checksum = Crc32c(0xffffffff, std::string_view(head).substr(kSuperOffset, kBlockSize));
  std::memcpy(&head[kSuperOffset], &super, sizeof(super));
  return output_.Append(head);
}

absl::Status ErofsWriter::EmitDirectory(Allocator& allocator, const Directory& directory) {
  IMAGEFS_ASSIGN_OR_RETURN(const Plan plan, MakePlan(directory.inode, &directory));
  if (plan.block_bytes > 0) {
    IMAGEFS_RETURN_IF_ERROR(output_.PadTo(allocator.PlaceBlocks(plan.block_bytes)));
    const EntryList entries = Entries(directory);
    const size_t end = plan.tail_bytes > 0 ? directory.tail_entry : entries.size();
    for (size_t first = 0; first < end;) {
      const size_t last = entries.PackBlock(first).first;
      IMAGEFS_RETURN_IF_ERROR(EmitBlock(directory, entries, first, last));
      IMAGEFS_RETURN_IF_ERROR(output_.PadTo(RoundUp(output_.offset(), kBlockSize)));
      first = last;
    }
  }
  uint32_t subdirectory = directory.first_subdirectory;
  for (uint32_t i = 0; i < directory.child_count; ++i) {
    const InodeId id = tree_.dirent(children_[directory.first_child + i]).inode;
    // Offsets ascend, so a file already emitted under another name is before the cursor.
    if (SlotOffset(id) < allocator.cursor()) continue;
    const bool is_directory = S_ISDIR(tree_.inode(id).mode);
    IMAGEFS_RETURN_IF_ERROR(
        EmitInode(allocator, id, is_directory ? &directories_[subdirectory++] : nullptr));
  }
  return absl::OkStatus();
}

absl::Status ErofsWriter::EmitInode(Allocator& allocator, InodeId id, const Directory* directory) {
  const Inode& inode = tree_.inode(id);
  IMAGEFS_ASSIGN_OR_RETURN(const Plan plan, MakePlan(id, directory));
  DiskInode disk;
  disk.format = static_cast<uint16_t>(kFormatExtended | (plan.layout << 1));
  if (plan.xattr_bytes > 0) {
    disk.xattr_count =
        static_cast<uint16_t>(1 + (plan.xattr_bytes - sizeof(XattrHeader)) / kXattrAlign);
  }
  disk.mode = static_cast<uint16_t>(inode.mode);
  disk.size = plan.size;
  disk.uid = inode.uid;
  disk.gid = inode.gid;
  disk.mtime = static_cast<uint64_t>(inode.mtime_seconds);
  disk.mtime_nanoseconds = inode.mtime_nanoseconds;
  disk.nlink = directory != nullptr ? 2 + directory->subdirectory_count : inode.nlink;
  disk.ino = slots_[id];
  if (S_ISCHR(inode.mode) || S_ISBLK(inode.mode)) {
    IMAGEFS_ASSIGN_OR_RETURN(disk.u, EncodeDevice(inode.rdev_major, inode.rdev_minor));
  } else if (plan.layout == kChunkBased) {
    disk.u = kChunkIndexes | plan.chunk_bits;
  } else if (directory != nullptr) {
    disk.u = directory->block;
  } else if (plan.block_bytes > 0) {  // a long symbolic link
    const uint64_t at = allocator.PlaceBlocks(plan.block_bytes);
    IMAGEFS_RETURN_IF_ERROR(output_.PadTo(at));
    IMAGEFS_RETURN_IF_ERROR(output_.Append(inode.symlink.substr(0, plan.size - plan.tail_bytes)));
    disk.u = static_cast<uint32_t>(at >> kBlockBits);
  }
  const uint64_t at = allocator.PlaceInode(plan);
  if (at != SlotOffset(id)) return absl::InternalError("the two passes over a tree disagree");
  IMAGEFS_RETURN_IF_ERROR(output_.PadTo(at));
  IMAGEFS_RETURN_IF_ERROR(output_.AppendStruct(disk));
  IMAGEFS_RETURN_IF_ERROR(EmitXattrs(plan));
  if (plan.layout == kChunkBased) return EmitChunks(id, plan);
  if (plan.tail_bytes == 0) return absl::OkStatus();
  if (directory == nullptr) {
    return output_.Append(inode.symlink.substr(plan.size - plan.tail_bytes));
  }
  const EntryList entries = Entries(*directory);
  return EmitBlock(*directory, entries, directory->tail_entry, entries.size());
}

absl::Status ErofsWriter::EmitXattrs(const Plan& plan) {
  if (plan.xattr_bytes == 0) return absl::OkStatus();
  IMAGEFS_RETURN_IF_ERROR(output_.AppendStruct(XattrHeader()));
  for (const PlannedXattr& xattr : plan.xattrs) {
    XattrEntry entry;
    entry.name_length = static_cast<uint8_t>(xattr.name.size());
    entry.prefix = xattr.prefix;
    entry.value_size = static_cast<uint16_t>(xattr.value.size());
    IMAGEFS_RETURN_IF_ERROR(output_.AppendStruct(entry));
    IMAGEFS_RETURN_IF_ERROR(output_.Append(xattr.name));
    IMAGEFS_RETURN_IF_ERROR(output_.Append(xattr.value));
    IMAGEFS_RETURN_IF_ERROR(output_.PadTo(RoundUp(output_.offset(), kXattrAlign)));
  }
  return absl::OkStatus();
}

absl::Status ErofsWriter::EmitChunks(InodeId id, const Plan& plan) {
  IMAGEFS_RETURN_IF_ERROR(output_.PadTo(RoundUp(output_.offset(), sizeof(ChunkIndex))));
  const absl::Span<const Extent> extents = tree_.Extents(id);
  size_t i = 0;
  for (uint64_t chunk = 0; chunk < plan.chunk_count; ++chunk) {
    const uint64_t block = chunk << plan.chunk_bits;
    while (i < extents.size() && EndBlock(extents[i]) <= block) ++i;
    ChunkIndex index;
    index.block = kHoleBlock;
    if (i < extents.size() && extents[i].file_offset >> kBlockBits <= block) {
      index.device = extents[i].device;
      index.block = static_cast<uint32_t>((extents[i].data_offset >> kBlockBits) + block -
                                          (extents[i].file_offset >> kBlockBits));
    }
    IMAGEFS_RETURN_IF_ERROR(output_.AppendStruct(index));
  }
  return absl::OkStatus();
}

absl::Status ErofsWriter::EmitBlock(const Directory& directory, const EntryList& entries,
                                    size_t first, size_t last) {
  uint32_t name_offset = static_cast<uint32_t>((last - first) * sizeof(DiskDirent));
  for (size_t i = first; i < last; ++i) {
    InodeId id = directory.inode;
    if (entries.IsDotDot(i)) {
      id = tree_.inode(directory.inode).parent;
    } else if (!entries.IsDot(i)) {
      id = entries.Child(i).inode;
    }
    DiskDirent dirent;
    dirent.nid = slots_[id];
    dirent.name_offset = static_cast<uint16_t>(name_offset);
    dirent.type = DirentType(tree_.inode(id).mode);
    IMAGEFS_RETURN_IF_ERROR(output_.AppendStruct(dirent));
    name_offset += static_cast<uint32_t>(entries.Name(i).size());
  }
  for (size_t i = first; i < last; ++i) {
    IMAGEFS_RETURN_IF_ERROR(output_.Append(entries.Name(i)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WriteErofs(const Tree& tree, const ErofsWriterOptions& options, int fd) {
  return ErofsWriter(tree, options, fd).Write();
}

absl::StatusOr<uint64_t> WriteLayerIndex(const Tree& tree, const Digest& diff_id,
                                         uint64_t data_bytes, int fd) {
  const ErofsWriterOptions options = {.devices = {{diff_id.hex(), data_bytes}},
                                      .overlay_form = true};
  IMAGEFS_RETURN_IF_ERROR(WriteErofs(tree, options, fd));
  struct stat st;
  if (fstat(fd, &st) != 0) return ErrnoStatus(errno, "index");
  return static_cast<uint64_t>(st.st_size);
}

}  // namespace imagefs
