// SPDX-License-Identifier: Apache-2.0
#include "image/erofs_reader.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/memory/memory.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "image/erofs_format.h"

namespace imagefs {
namespace {

// Longer runs of chunks are reported in pieces, to bound the time of one Map call.
constexpr uint64_t kMaxChunksAtOnce = 1 << 16;

absl::Status Damaged(Nid nid, std::string_view what) {
  return absl::DataLossError(
      StrCat("index: inode ", nid, ": ", what, "; remove the index to have it built again"));
}

// REQUIRES: offset + sizeof(T) <= bytes.size().
template <typename T>
const T& View(std::string_view bytes, uint64_t offset) {
  static_assert(alignof(T) == 1);
  return *reinterpret_cast<const T*>(bytes.data() + offset);
}

// An inode whose parts have been checked to lie within the image.
struct InodeView {
  Nid nid = 0;
  const DiskInode* disk = nullptr;
  uint16_t layout = 0;
  uint64_t size = 0;
  uint64_t xattrs = 0;      // offset of the xattrs
  uint64_t xattr_size = 0;  // 0 = none
  uint64_t data = 0;        // offset after the xattrs

  uint32_t mode() const { return disk->mode; }
};

// `first`: start of the metadata; there are no inodes before it.
absl::StatusOr<InodeView> LoadInode(std::string_view bytes, uint64_t first, Nid nid) {
  if (nid > bytes.size() >> kSlotBits || nid << kSlotBits < first ||
      (nid << kSlotBits) + sizeof(DiskInode) > bytes.size()) {
    return Damaged(nid, "lies outside of the image");
  }
  InodeView inode;
  inode.nid = nid;
  inode.disk = &View<DiskInode>(bytes, nid << kSlotBits);
  const uint16_t format = inode.disk->format;
  inode.layout = format >> 1;
  if ((format & kFormatExtended) == 0 ||
      (inode.layout != kFlatPlain && inode.layout != kFlatInline && inode.layout != kChunkBased)) {
    return Damaged(nid, StrCat("has the unknown format ", format));
  }
  inode.size = inode.disk->size;
  if (inode.size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return Damaged(nid, "has a negative size");
  }
  if (inode.disk->mtime_nanoseconds >= 1'000'000'000) {
    return Damaged(nid, "has a time with more than a second of nanoseconds");
  }
  inode.xattrs = (nid << kSlotBits) + sizeof(DiskInode);
  if (inode.disk->xattr_count != 0) {
    inode.xattr_size = sizeof(XattrHeader) + kXattrAlign * (inode.disk->xattr_count - 1);
  }
  inode.data = inode.xattrs + inode.xattr_size;
  if (inode.data > bytes.size()) return Damaged(nid, "has xattrs that extend beyond the image");
  return inode;
}

// Contents of a directory or symbolic link: whole blocks, then a tail.
struct FlatData {
  std::string_view blocks;
  std::string_view tail;

  uint64_t block_count() const { return blocks.size() / kBlockSize + (tail.empty() ? 0 : 1); }
  std::string_view block(uint64_t i) const {
    return i < blocks.size() / kBlockSize ? blocks.substr(i * kBlockSize, kBlockSize) : tail;
  }
};

absl::StatusOr<FlatData> LoadFlat(std::string_view bytes, const InodeView& inode) {
  if (inode.layout == kChunkBased) return Damaged(inode.nid, "has its data in another file");
  if (inode.size > bytes.size()) return Damaged(inode.nid, "is larger than the image");
  FlatData data;
  const uint64_t tail = inode.size % kBlockSize;
  const uint64_t whole = inode.size - tail;
  const uint64_t start = uint64_t{inode.disk->u} << kBlockBits;
  const bool is_inline = inode.layout == kFlatInline;
  const uint64_t in_blocks = is_inline ? whole : inode.size;
  if (in_blocks > 0) {
    if (start > bytes.size() || in_blocks > bytes.size() - start) {
      return Damaged(inode.nid, "has blocks outside of the image");
    }
    data.blocks = bytes.substr(start, whole);
    if (!is_inline) data.tail = bytes.substr(start + whole, tail);
  }
  if (is_inline) {
    if (tail == 0 || tail > bytes.size() - inode.data) {
      return Damaged(inode.nid, "has inline data that extends beyond the image");
    }
    data.tail = bytes.substr(inode.data, tail);
  }
  return data;
}

// One block of a directory. Create validates the number of entries; each access validates its
// entry.
class DirBlock {
 public:
  static absl::StatusOr<DirBlock> Create(std::string_view block, Nid directory) {
    if (block.size() < sizeof(DiskDirent)) return Damaged(directory, "has a short directory block");
    const uint64_t names = View<DiskDirent>(block, 0).name_offset;
    if (names == 0 || names % sizeof(DiskDirent) != 0 || names > block.size()) {
      return Damaged(directory, "has a directory block with a bad number of entries");
    }
    return DirBlock(block, directory, names / sizeof(DiskDirent));
  }

  uint64_t count() const { return count_; }
  const DiskDirent& entry(uint64_t i) const {
    return View<DiskDirent>(block_, i * sizeof(DiskDirent));
  }

  absl::StatusOr<std::string_view> Name(uint64_t i) const {
    const uint64_t begin = entry(i).name_offset;
    const bool is_last = i + 1 == count_;
    uint64_t end = is_last ? block_.size() : uint64_t{entry(i + 1).name_offset};
    if (begin < count_ * sizeof(DiskDirent) || begin >= end || end > block_.size()) {
      return Damaged(directory_, "has directory entries with bad name offsets");
    }
    std::string_view name = block_.substr(begin, end - begin);
    // The last name ends at the padding.
    if (is_last) name = name.substr(0, name.find('\0'));
    if (name.empty() || name.size() > kMaxName) {
      return Damaged(directory_, "has a directory entry with a bad name");
    }
    return name;
  }

 private:
  DirBlock(std::string_view block, Nid directory, uint64_t count)
      : block_(block), directory_(directory), count_(count) {}
  std::string_view block_;
  Nid directory_;
  uint64_t count_;
};

uint8_t DirentKind(uint8_t type) {
  switch (type) {
    case kTypeRegular:
      return DT_REG;
    case kTypeDirectory:
      return DT_DIR;
    case kTypeCharacter:
      return DT_CHR;
    case kTypeBlock:
      return DT_BLK;
    case kTypeFifo:
      return DT_FIFO;
    case kTypeSocket:
      return DT_SOCK;
    case kTypeSymlink:
      return DT_LNK;
    default:
      return DT_UNKNOWN;
  }
}

// Calls `visit` with the prefix, rest of the name and value of each xattr until it returns false.
absl::Status ForEachXattr(
    std::string_view bytes, const InodeView& inode,
    absl::FunctionRef<bool(const XattrPrefix&, std::string_view, std::string_view)> visit) {
  if (inode.xattr_size == 0) return absl::OkStatus();
  if (View<XattrHeader>(bytes, inode.xattrs).shared_count != 0) {
    return Damaged(inode.nid, "has shared xattrs, which an index never has");
  }
  uint64_t at = inode.xattrs + sizeof(XattrHeader);
  while (at < inode.data) {
    if (inode.data - at < sizeof(XattrEntry)) return Damaged(inode.nid, "has a truncated xattr");
    const XattrEntry& entry = View<XattrEntry>(bytes, at);
    const uint64_t size = sizeof(entry) + entry.name_length + uint64_t{entry.value_size};
    if (size > inode.data - at) return Damaged(inode.nid, "has a truncated xattr");
    const auto* prefix =
        std::find_if(kXattrPrefixes.begin(), kXattrPrefixes.end(),
                     [&](const XattrPrefix& p) { return p.index == entry.prefix; });
    if (prefix == kXattrPrefixes.end() || prefix->whole != (entry.name_length == 0)) {
      return Damaged(inode.nid, "has an xattr with a bad name");
    }
    const std::string_view name = bytes.substr(at + sizeof(entry), entry.name_length);
    const std::string_view value =
        bytes.substr(at + sizeof(entry) + entry.name_length, entry.value_size);
    if (!visit(*prefix, name, value)) return absl::OkStatus();
    at += RoundUp(size, kXattrAlign);
  }
  return absl::OkStatus();
}

struct Chunks {
  const ChunkIndex* array = nullptr;
  uint64_t count = 0;
  uint32_t bits = 0;  // log2 of the chunk size in bytes
};

absl::StatusOr<Chunks> LoadChunks(std::string_view bytes, const InodeView& inode) {
  const uint32_t format = inode.disk->u;
  if (inode.layout != kChunkBased || inode.size == 0 ||
      (format & ~kChunkBitsMask) != kChunkIndexes) {
    return Damaged(inode.nid, StrCat("has the unknown chunk format ", format));
  }
  Chunks chunks;
  chunks.bits = kBlockBits + (format & kChunkBitsMask);
  chunks.count = ((inode.size - 1) >> chunks.bits) + 1;
  const uint64_t at = RoundUp(inode.data, sizeof(ChunkIndex));
  if (at > bytes.size() || chunks.count > (bytes.size() - at) / sizeof(ChunkIndex)) {
    return Damaged(inode.nid, "has chunks that extend beyond the image");
  }
  chunks.array = &View<ChunkIndex>(bytes, at);
  return chunks;
}

absl::StatusOr<std::vector<DeviceSlot>> LoadDevices(std::string_view bytes, uint64_t count) {
  std::vector<DeviceSlot> devices;
  if (kDeviceTableOffset + count * sizeof(DeviceEntry) > bytes.size()) {
    return absl::DataLossError("index: the table of data files is truncated; remove the index");
  }
  devices.reserve(count);
  for (uint64_t i = 0; i < count; ++i) {
    const auto& entry = View<DeviceEntry>(bytes, kDeviceTableOffset + i * sizeof(DeviceEntry));
    const std::string_view tag(entry.tag.data(), entry.tag.size());
    devices.push_back(
        {std::string(tag.substr(0, tag.find('\0'))), uint64_t{entry.blocks} << kBlockBits});
  }
  return devices;
}

absl::Status CheckSuperBlock(std::string_view bytes) {
  if (bytes.size() < kSuperOffset + kBlockSize ||
      View<SuperBlock>(bytes, kSuperOffset).magic != kMagic) {
    return absl::DataLossError("index: no EROFS superblock; remove the index");
  }
  SuperBlock super = View<SuperBlock>(bytes, kSuperOffset);
  const std::string_view volume(super.volume_name.data(), super.volume_name.size());
  if (!volume.starts_with(kVolumeName) || volume[kVolumeName.size()] != '\0' ||
      super.block_bits != kBlockBits || super.extension_slots != 0 || super.meta_block != 0 ||
      super.directory_block_bits != 0 || super.epoch != 0 || super.epoch_nanoseconds != 0) {
    return absl::InvalidArgumentError("index: an EROFS image, but not one made by imagefs");
  }
  if (static_cast<uint8_t>(volume[kVolumeVersionAt]) != kIndexVersion ||
      (super.feature_incompat & ~(kIncompatChunkedFile | kIncompatDeviceTable)) != 0) {
    return absl::InvalidArgumentError(
        StrCat("index: version ", static_cast<uint8_t>(volume[kVolumeVersionAt]),
               " is not supported by this imagefs (", kIndexVersion, "); remove the index"));
  }
  std::string block(bytes.substr(kSuperOffset, kBlockSize));
  const uint32_t expected = super.checksum;
  super.checksum = 0;
  std::memcpy(block.data(), &super, sizeof(super));
  if (Crc32c(0xffffffff, block) != expected) {
    return absl::DataLossError("index: the superblock has a wrong checksum; remove the index");
  }
  if (uint64_t{super.blocks} << kBlockBits > bytes.size()) {
    return absl::DataLossError(StrCat("index: truncated to ", bytes.size(), " of ",
                                      uint64_t{super.blocks} << kBlockBits,
                                      " bytes; remove the index"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ErofsImage>> ErofsImage::Open(const std::string& path) {
  IMAGEFS_ASSIGN_OR_RETURN(const Fd fd, OpenFile(path, O_RDONLY));
  return OpenFd(fd.get(), path);
}

absl::StatusOr<std::unique_ptr<ErofsImage>> ErofsImage::OpenFd(int fd, std::string_view name) {
  IMAGEFS_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Map(fd, name));
  if (file.bytes().empty()) return absl::DataLossError(StrCat(name, ": empty index; remove it"));
  auto image = FromMemory(file.bytes());
  IMAGEFS_RETURN_IF_ERROR(file.CheckWhole(name));
  if (!image.ok()) return Annotate(image.status(), name);
  (*image)->file_ = std::move(file);
  return image;
}

absl::StatusOr<std::unique_ptr<ErofsImage>> ErofsImage::FromMemory(std::string_view bytes) {
  IMAGEFS_RETURN_IF_ERROR(CheckSuperBlock(bytes));
  const SuperBlock& super = View<SuperBlock>(bytes, kSuperOffset);
  auto image = absl::WrapUnique(new ErofsImage);
  image->bytes_ = bytes.substr(0, uint64_t{super.blocks} << kBlockBits);
  image->root_ = super.root_nid;
  image->inode_count_ = super.inode_count;
  image->flags_ = static_cast<uint8_t>(super.volume_name[kVolumeFlagsAt]);
  if ((super.feature_incompat & kIncompatDeviceTable) != 0) {
    if (super.device_table_slot != kDeviceTableOffset / sizeof(DeviceEntry)) {
      return absl::DataLossError("index: the table of data files is elsewhere; remove the index");
    }
    IMAGEFS_ASSIGN_OR_RETURN(image->devices_, LoadDevices(image->bytes_, super.extra_devices));
  }
  image->meta_offset_ = std::max<uint64_t>(
      kSuperOffset + kBlockSize, kDeviceTableOffset + image->devices_.size() * sizeof(DeviceEntry));
  IMAGEFS_ASSIGN_OR_RETURN(const Stat root, image->GetStat(image->root_));
  if (!S_ISDIR(root.mode)) return Damaged(image->root_, "is the root but not a directory");
  return image;
}

absl::StatusOr<ErofsImage::Stat> ErofsImage::StatOf(Nid nid) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, nid));
  Stat stat;
  stat.nid = nid;
  stat.mode = inode.mode();
  stat.uid = inode.disk->uid;
  stat.gid = inode.disk->gid;
  stat.nlink = inode.disk->nlink;
  stat.mtime_seconds = static_cast<int64_t>(uint64_t{inode.disk->mtime});
  stat.mtime_nanoseconds = inode.disk->mtime_nanoseconds;
  stat.size = inode.size;
  if (S_ISCHR(stat.mode) || S_ISBLK(stat.mode)) {
    const uint32_t device = inode.disk->u;  // encoded by the kernel's new_encode_dev
    stat.rdev_major = (device >> 8) & 0xfff;
    stat.rdev_minor = (device & 0xff) | ((device >> 12) & ~0xffu);
  }
  return stat;
}

// Two binary searches: for the last block whose first name is not greater, then within that block.
absl::StatusOr<std::optional<Nid>> ErofsImage::Find(Nid directory, std::string_view name) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, directory));
  if (!S_ISDIR(inode.mode())) return absl::FailedPreconditionError("not a directory");
  IMAGEFS_ASSIGN_OR_RETURN(const FlatData data, LoadFlat(bytes_, inode));
  uint64_t low = 0;  // invariant: the name is in a block of [low - 1, high), or absent
  uint64_t high = data.block_count();
  while (low < high) {
    const uint64_t middle = low + (high - low) / 2;
    IMAGEFS_ASSIGN_OR_RETURN(const DirBlock block, DirBlock::Create(data.block(middle), directory));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view first, block.Name(0));
    if (first == name) return std::optional<Nid>(block.entry(0).nid);
    if (first < name) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low == 0) return std::nullopt;
  IMAGEFS_ASSIGN_OR_RETURN(const DirBlock block, DirBlock::Create(data.block(low - 1), directory));
  uint64_t begin = 1;
  uint64_t end = block.count();
  while (begin < end) {
    const uint64_t middle = begin + (end - begin) / 2;
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view entry, block.Name(middle));
    const int order = entry.compare(name);
    if (order == 0) return std::optional<Nid>(block.entry(middle).nid);
    if (order < 0) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return std::nullopt;
}

// A position is the offset of an entry in the directory, as in the kernel.
absl::Status ErofsImage::ReadDir(Nid directory, uint64_t position,
                                 absl::FunctionRef<bool(const DirentView&)> visit) const {
  const uint64_t generation = file_.generation();
  std::string name;
  return Whole([&] {
    return VisitDir(directory, position, [&](const DirentView& found) {
      // Mapped bytes may turn into zeros at any moment, so pass a copy.
      name = found.name;
      if (!file_.IsWholeSince(generation)) return false;
      return visit({name, found.nid, found.type, found.next});
    });
  });
}

absl::Status ErofsImage::VisitDir(Nid directory, uint64_t position,
                                  absl::FunctionRef<bool(const DirentView&)> visit) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, directory));
  if (!S_ISDIR(inode.mode())) return absl::FailedPreconditionError("not a directory");
  IMAGEFS_ASSIGN_OR_RETURN(const FlatData data, LoadFlat(bytes_, inode));
  uint64_t i = RoundUp(position % kBlockSize, sizeof(DiskDirent)) / sizeof(DiskDirent);
  for (uint64_t b = position / kBlockSize; b < data.block_count(); ++b, i = 0) {
    IMAGEFS_ASSIGN_OR_RETURN(const DirBlock block, DirBlock::Create(data.block(b), directory));
    for (; i < block.count(); ++i) {
      DirentView view;
      IMAGEFS_ASSIGN_OR_RETURN(view.name, block.Name(i));
      if (std::memchr(view.name.data(), '/', view.name.size()) != nullptr ||
          std::memchr(view.name.data(), '\0', view.name.size()) != nullptr) {
        return Damaged(directory, "has a directory entry with a bad name");
      }
      view.nid = block.entry(i).nid;
      view.type = DirentKind(block.entry(i).type);
      view.next = i + 1 < block.count() ? b * kBlockSize + (i + 1) * sizeof(DiskDirent)
                                        : (b + 1) * kBlockSize;
      if (!visit(view)) return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ErofsImage::TargetOf(Nid nid) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, nid));
  if (!S_ISLNK(inode.mode())) return absl::InvalidArgumentError("not a symbolic link");
  if (inode.size == 0 || inode.size > kMaxSymlink) {
    return Damaged(nid, "is a symbolic link of a bad length");
  }
  IMAGEFS_ASSIGN_OR_RETURN(const FlatData data, LoadFlat(bytes_, inode));
  return StrCat(data.blocks, data.tail);
}

absl::StatusOr<std::vector<Xattr>> ErofsImage::AllXattrs(Nid nid) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, nid));
  std::vector<Xattr> xattrs;
  IMAGEFS_RETURN_IF_ERROR(ForEachXattr(
      bytes_, inode, [&](const XattrPrefix& prefix, std::string_view name, std::string_view value) {
        xattrs.push_back({StrCat(prefix.text, name), std::string(value)});
        return true;
      }));
  std::sort(xattrs.begin(), xattrs.end());
  return xattrs;
}

absl::StatusOr<std::optional<std::string>> ErofsImage::FindXattr(Nid nid,
                                                                 std::string_view name) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, nid));
  std::optional<std::string> found;
  IMAGEFS_RETURN_IF_ERROR(ForEachXattr(
      bytes_, inode, [&](const XattrPrefix& prefix, std::string_view rest, std::string_view value) {
        if (name.size() == prefix.text.size() + rest.size() && name.starts_with(prefix.text) &&
            name.ends_with(rest)) {
          found = std::string(value);
        }
        return !found.has_value();
      }));
  return found;
}

absl::StatusOr<Extent> ErofsImage::RunAt(Nid nid, uint64_t offset) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, nid));
  if (!S_ISREG(inode.mode())) return absl::InvalidArgumentError("not a regular file");
  if (offset >= inode.size) return absl::OutOfRangeError("offset beyond the end of the file");
  IMAGEFS_ASSIGN_OR_RETURN(const Chunks chunks, LoadChunks(bytes_, inode));

  const uint64_t first = offset >> chunks.bits;
  const ChunkIndex& index = chunks.array[first];
  const bool is_hole = index.block == kHoleBlock;
  // Extend over the chunks that continue where the previous one ended.
  const uint64_t blocks = uint64_t{1} << (chunks.bits - kBlockBits);
  const uint64_t limit = std::min(chunks.count, first + kMaxChunksAtOnce);
  uint64_t next = first + 1;
  for (; next < limit; ++next) {
    const ChunkIndex& other = chunks.array[next];
    const bool goes_on = is_hole
                             ? other.block == kHoleBlock
                             : other.block != kHoleBlock && other.device == index.device &&
                                   other.block == uint64_t{index.block} + (next - first) * blocks;
    if (!goes_on) break;
  }
  Extent extent;
  extent.file_offset = offset;
  const uint64_t end = next == chunks.count ? inode.size : next << chunks.bits;
  extent.length = end - offset;
  if (is_hole) {
    extent.device = 0;
    return extent;
  }
  extent.device = index.device;
  extent.data_offset = (uint64_t{index.block} << kBlockBits) + (offset - (first << chunks.bits));
  if (extent.device == 0 || extent.device > devices_.size()) {
    return Damaged(nid, StrCat("has bytes in data file ", extent.device, " of ", devices_.size()));
  }
  const uint64_t device_bytes = devices_[extent.device - 1].size_bytes;
  if (extent.data_offset > device_bytes || extent.length > device_bytes - extent.data_offset) {
    return Damaged(nid, StrCat("has bytes beyond the end of data file ", extent.device));
  }
  return extent;
}

absl::StatusOr<uint64_t> ErofsImage::BytesOf(Nid nid) const {
  IMAGEFS_ASSIGN_OR_RETURN(const InodeView inode, LoadInode(bytes_, meta_offset_, nid));
  uint64_t bytes = inode.data - (nid << kSlotBits);
  if (S_ISREG(inode.mode()) && inode.size > 0) {
    IMAGEFS_ASSIGN_OR_RETURN(const Chunks chunks, LoadChunks(bytes_, inode));
    bytes += chunks.count * sizeof(ChunkIndex);
  } else if (S_ISDIR(inode.mode()) || S_ISLNK(inode.mode())) {
    bytes += std::min<uint64_t>(inode.size, bytes_.size());
  }
  return bytes;
}

}  // namespace imagefs
