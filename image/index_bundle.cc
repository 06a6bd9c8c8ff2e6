// SPDX-License-Identifier: Apache-2.0
#include "image/index_bundle.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/fd.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "base/text.h"
#include "image/raw_digest.h"
#include "image/zstd_frame.h"

namespace imagefs {
namespace {

constexpr std::string_view kMagic = "imgfslix", kOldMagic = "imgfsidx";
constexpr uint32_t kVersion = 2;
constexpr size_t kStartBytes = 16;   // of either format, enough to know how long the header is
constexpr size_t kHeaderBytes = 48;  // and of what a later version appends at most kMaxHeaderBytes
constexpr size_t kEntryBytes = 104;  // of a blob, likewise
constexpr size_t kMaxHeaderBytes = 4096, kMaxEntryBytes = 1024, kMaxEntries = 16;
constexpr uint32_t kPieceBytes = 32 << 10;  // as written
constexpr uint32_t kMinPieceBytes = 4 << 10, kMaxPieceBytes = 1 << 20;
constexpr int kLevel = 12;
constexpr uint32_t kNoOwner = UINT32_MAX;  // chown(2)'s "do not change", invalid in the kernel

absl::Status Wrong(std::string_view what) {
  return absl::DataLossError(StrCat("a published index ", what));
}

// The content of the frame, cut into what goes where while it is unpacked.
class Unpacker {
 public:
  Unpacker(uint64_t announced, const Digest& blob, int index, int span_table)
      : left_(announced), blob_(blob), index_{index}, span_table_{span_table} {}

  absl::Status Add(std::string_view piece) {
    while (!piece.empty()) {
      if (next_ == parts_.size() || parts_[next_].bytes == 0) {
        IMAGEFS_RETURN_IF_ERROR(Advance());
        continue;
      }
      Part& part = parts_[next_];
      const std::string_view here = piece.substr(0, std::min<uint64_t>(piece.size(), part.bytes));
      if (part.file != nullptr) {
        IMAGEFS_RETURN_IF_ERROR(PwriteFull(part.file->fd, here, part.file->bytes));
        part.file->bytes += here.size();
      } else if (part.text != nullptr) {
        part.text->append(here);
      }
      part.bytes -= here.size();
      piece.remove_prefix(here.size());
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<PublishedWindows>> Finish() {
    while (next_ < parts_.size() && parts_[next_].bytes == 0) ++next_;
    if (step_ != Step::kRest || next_ < parts_.size()) return Wrong("that is truncated");
    if (!windows_.has_value()) return windows_;
    for (size_t at = 0; at < pieces_.size(); at += Digest::kSize) {
      windows_->pieces.push_back(GetDigest(pieces_, at));
    }
    // Room for them. The table says how many bytes they have, and is refused if it disagrees.
    if (ftruncate(span_table_.fd, static_cast<off_t>(span_table_.bytes + windows_->blob.size)) !=
        0) {
      return ErrnoStatus(errno, "a span table");
    }
    return windows_;
  }

 private:
  struct File {
    int fd;
    uint64_t bytes = 0;
  };
  // The next so many bytes go to `file`, else to `text`, else nowhere.
  struct Part {
    uint64_t bytes;
    File* file = nullptr;
    std::string* text = nullptr;
  };
  enum class Step { kStart, kHeader, kEntries, kRest };

  absl::Status Read(uint64_t bytes, File* file, std::string* text) {
    if (bytes > left_) return Wrong("that is truncated");
    left_ -= bytes;
    parts_.push_back({bytes, file, text});
    return absl::OkStatus();
  }

  // All bytes of the current part have come: what comes next follows from them.
  absl::Status Advance() {
    if (next_ < parts_.size() && ++next_ < parts_.size()) return absl::OkStatus();
    switch (step_) {
      case Step::kStart:
        if (parts_.empty()) return Read(kStartBytes, nullptr, &head_);
        return OnStart();
      case Step::kHeader:
        return OnHeader();
      case Step::kEntries:
        return OnEntries();
      case Step::kRest:  // what a later version appends
        if (left_ == 0) return Wrong("that is longer than it says");
        return Read(left_, nullptr, nullptr);
    }
    return absl::OkStatus();
  }

  absl::Status OnStart() {
    if (head_.starts_with(kOldMagic)) {
      step_ = Step::kRest;
      IMAGEFS_RETURN_IF_ERROR(Read(GetLittleEndian<uint64_t>(head_, 8), &index_, nullptr));
      return Read(left_, &span_table_, nullptr);
    }
    if (!head_.starts_with(kMagic)) return Wrong("of an unknown format");
    if (GetLittleEndian<uint32_t>(head_, 8) != kVersion) {
      return Wrong(StrCat("of version ", GetLittleEndian<uint32_t>(head_, 8),
                          " where this program knows ", kVersion));
    }
    const auto bytes = GetLittleEndian<uint32_t>(head_, 12);
    if (bytes < kHeaderBytes || bytes > kMaxHeaderBytes) return Wrong("with a malformed header");
    step_ = Step::kHeader;
    return Read(bytes - kStartBytes, nullptr, &head_);
  }

  absl::Status OnHeader() {
    if (const auto features = GetLittleEndian<uint32_t>(head_, 20); features != 0) {
      return Wrong(StrCat("with features that this version does not know: ", features));
    }
    count_ = GetLittleEndian<uint32_t>(head_, 32);
    entry_bytes_ = GetLittleEndian<uint32_t>(head_, 36);
    if (count_ == 0 || count_ > kMaxEntries || entry_bytes_ < kEntryBytes ||
        entry_bytes_ > kMaxEntryBytes) {
      return Wrong("with a malformed header");
    }
    step_ = Step::kEntries;
    return Read(count_ * entry_bytes_, nullptr, &entries_);
  }

  absl::Status OnEntries() {
    step_ = Step::kRest;
    IMAGEFS_RETURN_IF_ERROR(Read(GetLittleEndian<uint64_t>(head_, 24), &index_, nullptr));
    bool found = false;
    for (size_t i = 0; i < count_; ++i) {
      const std::string_view entry = std::string_view(entries_).substr(i * entry_bytes_);
      const auto table = GetLittleEndian<uint64_t>(entry, 48);
      PublishedWindows windows;
      windows.blob.size = GetLittleEndian<uint64_t>(entry, 56);
      windows.blob.digest = GetDigest(entry, 64);
      windows.piece_bytes = GetLittleEndian<uint32_t>(entry, 96);
      const bool power = (windows.piece_bytes & (windows.piece_bytes - 1)) == 0;
      const bool known = windows.piece_bytes >= kMinPieceBytes &&
                         windows.piece_bytes <= kMaxPieceBytes && power &&
                         windows.blob.size <= kMaxBundleBytes;
      if (windows.blob.size > 0 && !known) return Wrong("with malformed windows");
      const uint64_t pieces = windows.blob.size == 0 ? 0 : windows.PieceCount() * Digest::kSize;
      // Of another blob with the same content, or with features that are not known.
      const bool ours =
          !found && GetDigest(entry, 0) == blob_ && GetLittleEndian<uint32_t>(entry, 44) == 0;
      IMAGEFS_RETURN_IF_ERROR(Read(table, ours ? &span_table_ : nullptr, nullptr));
      IMAGEFS_RETURN_IF_ERROR(Read(pieces, nullptr, ours ? &pieces_ : nullptr));
      if (ours && pieces > 0) windows_ = std::move(windows);
      found |= ours;
    }
    if (found) return absl::OkStatus();
    return absl::DataLossError(StrCat("it describes blob ", GetDigest(entries_, 0).ToString(),
                                      " and not ", blob_.ToString()));
  }

  uint64_t left_;  // bytes that no part has yet
  const Digest blob_;
  File index_, span_table_;
  Step step_ = Step::kStart;
  std::vector<Part> parts_;
  size_t next_ = 0;
  std::string head_, entries_, pieces_;
  size_t count_ = 0, entry_bytes_ = 0;
  std::optional<PublishedWindows> windows_;
};

}  // namespace

absl::StatusOr<PackedBundle> PackBundle(const IndexBundle& bundle) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<SpanTableReader> reader,
                           SpanTableReader::FromBytes(bundle.span_table));
  if (reader->late_windows()) return Wrong("of a span table whose windows have not come");
  PackedBundle packed;
  const std::string table = SpanTableWithoutWindows(bundle.span_table);
  packed.windows = bundle.span_table.substr(table.size());
  std::string plain(kMagic);
  PutLittleEndian<uint32_t>(plain, kVersion);
  PutLittleEndian<uint32_t>(plain, kHeaderBytes);
  PutLittleEndian<uint32_t>(plain, 0);  // features that a reader may ignore
  PutLittleEndian<uint32_t>(plain, 0);  // and those that it may not
  PutLittleEndian<uint64_t>(plain, bundle.index.size());
  PutLittleEndian<uint32_t>(plain, 1);  // blobs
  PutLittleEndian<uint32_t>(plain, kEntryBytes);
  PutLittleEndian<uint64_t>(plain, 0);
  PutDigest(plain, reader->blob_digest());
  PutLittleEndian<uint64_t>(plain, reader->blob_size());
  PutLittleEndian<uint32_t>(plain, 0);
  PutLittleEndian<uint32_t>(plain, 0);  // features of the blob that a reader may not ignore
  PutLittleEndian<uint64_t>(plain, table.size());
  PutLittleEndian<uint64_t>(plain, packed.windows.size());
  PutDigest(plain, packed.windows.empty() ? Digest() : Sha256Of(packed.windows));
  PutLittleEndian<uint32_t>(plain, packed.windows.empty() ? 0 : kPieceBytes);
  PutLittleEndian<uint32_t>(plain, 0);
  plain += bundle.index;
  plain += table;
  for (size_t at = 0; at < packed.windows.size(); at += kPieceBytes) {
    PutDigest(plain, Sha256Of(std::string_view(packed.windows).substr(at, kPieceBytes)));
  }
  packed.index = CompressZstd(plain, kLevel);
  return packed;
}

absl::StatusOr<std::optional<PublishedWindows>> UnpackBundle(std::string_view packed,
                                                             uint64_t max_bytes, const Digest& blob,
                                                             int index, int span_table) {
  IMAGEFS_ASSIGN_OR_RETURN(const uint64_t announced, ZstdFrameBytes(packed));
  if (announced > max_bytes) {
    return absl::ResourceExhaustedError(
        StrCat("a published index of ", announced, " bytes where ", max_bytes, " are allowed"));
  }
  Unpacker unpacker(announced, blob, index, span_table);
  IMAGEFS_RETURN_IF_ERROR(DecompressZstdTo(
      packed, announced, [&](std::string_view piece) { return unpacker.Add(piece); }));
  return unpacker.Finish();
}

absl::StatusOr<Tree> TreeOfBundle(const ErofsImage& index, const SpanTableReader& span_table,
                                  const Digest& blob, uint64_t blob_size, const Digest& diff_id,
                                  uint64_t max_bytes) {
  if (span_table.blob_digest() != blob || span_table.blob_size() != blob_size ||
      span_table.diff_id() != diff_id) {
    return absl::DataLossError(StrCat("it describes blob ", span_table.blob_digest().ToString(),
                                      " and not ", blob.ToString()));
  }
  if (span_table.layout() != DataLayout::kTar) {
    return absl::DataLossError("its span table is not that of a tar");
  }
  if (!span_table.has_digests()) {
    return absl::DataLossError("its span table has spans without a digest");
  }
  if (index.devices().size() != 1 || index.devices()[0].tag != diff_id.hex() ||
      index.devices()[0].size_bytes != span_table.data_bytes()) {
    return absl::DataLossError("its tree refers to another data file");
  }
  if ((index.flags() & kIndexOverlayForm) == 0) {
    return absl::DataLossError("its tree is a merged one, not that of a layer");
  }
  // Visits every inode, name and extent, so that nothing malformed can be encountered later.
  IMAGEFS_ASSIGN_OR_RETURN(Tree tree, index.ToTree(0, max_bytes));
  for (InodeId id = 0; id < tree.inode_count(); ++id) {
    const Inode& inode = tree.inode(id);
    if (inode.uid == kNoOwner || inode.gid == kNoOwner) {
      return absl::DataLossError("it has a file with an invalid owner");
    }
    if ((inode.opaque || inode.implied) && !S_ISDIR(inode.mode)) {
      return absl::DataLossError("it has a file with the marks of a directory");
    }
  }
  return tree;
}

}  // namespace imagefs
