// SPDX-License-Identifier: Apache-2.0
// The EROFS on-disk format: the subset that an index uses. The authoritative definition is the
// kernel's fs/erofs/erofs_fs.h; docs/formats/index.md describes how an index uses it. All numbers
// are little-endian, and every struct has alignment 1, so it may be overlaid on any byte of a
// mapping.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace imagefs {

// A little-endian integer with alignment 1.
template <typename T>
class Little {
 public:
  Little() = default;
  Little(T value) { *this = value; }  // NOLINT: implicit, so that structs read like plain numbers
  Little& operator=(T value) {
    value = Order(value);
    std::memcpy(bytes_.data(), &value, sizeof(T));
    return *this;
  }
  operator T() const {  // NOLINT
    T value;
    std::memcpy(&value, bytes_.data(), sizeof(T));
    return Order(value);
  }

 private:
  static T Order(T value) {
    if constexpr (std::endian::native == std::endian::little) {
      return value;
    } else {
      T swapped = 0;
      for (size_t i = 0; i < sizeof(T); ++i) {
        swapped = static_cast<T>((swapped << 8) | ((value >> (8 * i)) & 0xff));
      }
      return swapped;
    }
  }
  std::array<unsigned char, sizeof(T)> bytes_{};
};
using Le16 = Little<uint16_t>;
using Le32 = Little<uint32_t>;
using Le64 = Little<uint64_t>;

inline constexpr uint32_t kBlockBits = 9;
inline constexpr uint32_t kBlockSize = 1u << kBlockBits;
inline constexpr uint32_t kSlotBits = 5;  // inode numbers count 32-byte slots
inline constexpr uint32_t kSlotSize = 1u << kSlotBits;

inline constexpr uint64_t kSuperOffset = 1024;
inline constexpr uint32_t kMagic = 0xE0F5E1E2;

inline constexpr uint32_t kCompatSuperChecksum = 0x1;
inline constexpr uint32_t kCompatMtime = 0x2;  // an inode's time is its mtime
inline constexpr uint32_t kIncompatChunkedFile = 0x4;
inline constexpr uint32_t kIncompatDeviceTable = 0x8;

struct SuperBlock {
  Le32 magic;
  Le32 checksum;  // CRC-32C from here to the end of the block, with this field as zero
  Le32 feature_compat;
  uint8_t block_bits = 0;
  uint8_t extension_slots = 0;
  Le16 root_nid;
  Le64 inode_count;
  Le64 epoch;
  Le32 epoch_nanoseconds;
  Le32 blocks;
  Le32 meta_block;
  Le32 xattr_block;
  std::array<uint8_t, 16> uuid{};
  std::array<char, 16> volume_name{};
  Le32 feature_incompat;
  Le16 compression;
  Le16 extra_devices;
  Le16 device_table_slot;  // in units of sizeof(DeviceEntry) from the start of the image
  uint8_t directory_block_bits = 0;
  uint8_t xattr_prefix_count = 0;
  Le32 xattr_prefix_start;
  Le64 packed_nid;
  std::array<uint8_t, 24> reserved{};
};
static_assert(sizeof(SuperBlock) == 128 && alignof(SuperBlock) == 1);
static_assert(offsetof(SuperBlock, volume_name) == 64);
static_assert(offsetof(SuperBlock, device_table_slot) == 88);

struct DeviceEntry {
  std::array<char, 64> tag{};
  Le32 blocks;
  Le32 mapped_block;
  std::array<uint8_t, 56> reserved{};
};
static_assert(sizeof(DeviceEntry) == 128 && alignof(DeviceEntry) == 1);

inline constexpr uint64_t kDeviceTableOffset = kSuperOffset + sizeof(SuperBlock);
static_assert(kDeviceTableOffset % sizeof(DeviceEntry) == 0);

// Data layout of an inode, in bits 1-3 of Inode::format. Bit 0 is set for a 64-byte inode.
inline constexpr uint16_t kFormatExtended = 1;
inline constexpr uint16_t kFlatPlain = 0;   // blocks at `u`
inline constexpr uint16_t kFlatInline = 2;  // blocks at `u`, the last one after the inode
inline constexpr uint16_t kChunkBased = 4;  // an array of ChunkIndex after the inode

struct DiskInode {
  Le16 format;
  Le16 xattr_count;  // 0, or 1 + (bytes of xattr entries) / 4
  Le16 mode;
  Le16 reserved;
  Le64 size;
  Le32 u;  // first block, device number, or chunk format
  Le32 ino;
  Le32 uid;
  Le32 gid;
  Le64 mtime;
  Le32 mtime_nanoseconds;
  Le32 nlink;
  std::array<uint8_t, 16> reserved2{};
};
static_assert(sizeof(DiskInode) == 64 && alignof(DiskInode) == 1);

inline constexpr uint32_t kChunkBitsMask = 0x1f;  // a chunk is 2^(9 + bits) bytes
inline constexpr uint32_t kChunkIndexes = 0x20;   // 8-byte entries with a device
inline constexpr uint32_t kHoleBlock = 0xffffffff;

struct ChunkIndex {
  Le16 reserved;
  Le16 device;
  Le32 block;
};
static_assert(sizeof(ChunkIndex) == 8 && alignof(ChunkIndex) == 1);

struct XattrHeader {
  Le32 name_filter;
  uint8_t shared_count = 0;
  std::array<uint8_t, 7> reserved{};
};
static_assert(sizeof(XattrHeader) == 12 && alignof(XattrHeader) == 1);

struct XattrEntry {
  uint8_t name_length = 0;  // without the prefix
  uint8_t prefix = 0;
  Le16 value_size;
};
static_assert(sizeof(XattrEntry) == 4 && alignof(XattrEntry) == 1);
inline constexpr uint64_t kXattrAlign = 4;

struct XattrPrefix {
  uint8_t index;
  bool whole;  // the prefix is the whole name
  std::string_view text;
};
inline constexpr std::array<XattrPrefix, 5> kXattrPrefixes = {{
    {1, false, "user."},
    {2, true, "system.posix_acl_access"},
    {3, true, "system.posix_acl_default"},
    {4, false, "trusted."},
    {6, false, "security."},
}};

struct DiskDirent {
  Le64 nid;
  Le16 name_offset;  // in the directory block; the first entry's also gives the number of entries
  uint8_t type = 0;
  uint8_t reserved = 0;
};
static_assert(sizeof(DiskDirent) == 12 && alignof(DiskDirent) == 1);
inline constexpr size_t kMaxName = 255;
inline constexpr size_t kMaxSymlink = 4095;

// DiskDirent::type.
inline constexpr uint8_t kTypeRegular = 1, kTypeDirectory = 2, kTypeCharacter = 3, kTypeBlock = 4,
                         kTypeFifo = 5, kTypeSocket = 6, kTypeSymlink = 7;

// Volume name: this text, a NUL, the version of the index format, its flags, zeros.
inline constexpr std::string_view kVolumeName = "imagefs";
inline constexpr size_t kVolumeVersionAt = 8;
inline constexpr size_t kVolumeFlagsAt = 9;

// Xattrs that stand for Inode::opaque and Inode::implied in overlay form; the value is "y".
inline constexpr std::string_view kOpaqueXattr = "trusted.overlay.opaque";
inline constexpr std::string_view kImpliedXattr = "trusted.imagefs.implied";

inline constexpr uint64_t RoundUp(uint64_t value, uint64_t to) {
  return (value + to - 1) / to * to;
}

}  // namespace imagefs
