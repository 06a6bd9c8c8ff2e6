// SPDX-License-Identifier: Apache-2.0
#include "image/zstd_parts.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "base/little_endian.h"
#include "base/status.h"
#include "base/text.h"
#include "image/zstd_frame.h"
#include "image/zstd_window.h"

namespace imagefs {
namespace {

constexpr size_t kSkippableHeadBytes = 8, kBlockHeadBytes = 3, kChecksumBytes = 4;
constexpr size_t kMaxBlockBytes = 128 << 10;
constexpr uint64_t kBufferBytes = 2 * kMaxBlockBytes;  // of a decoder, beside its window
constexpr size_t kDescriptorAt = 4;                    // behind the magic number
constexpr uint8_t kHasChecksum = 0x04;
enum BlockType : uint8_t { kRaw = 0, kRepeated = 1, kCompressed = 2, kReserved = 3 };

absl::Status Damaged(std::string_view why) {
  return absl::DataLossError(StrCat("a damaged zstd frame: ", why));
}

class PartsDecoder final : public ZstdPartsDecoder {
 public:
  explicit PartsDecoder(std::unique_ptr<ZstdStream> stream) : stream_(std::move(stream)) {}

  absl::Status Next(std::string_view blob, absl::Span<char> out, bool last) override {
    while (!out.empty() || (!last && !blob.empty())) {
      if (ended_) return Damaged("it ends too early");
      IMAGEFS_ASSIGN_OR_RETURN(const ZstdStream::Step step, stream_->Run(blob, out));
      if (step.consumed == 0 && step.produced == 0) return Damaged("a part of another size");
      blob.remove_prefix(step.consumed);
      out.remove_prefix(step.produced);
      ended_ = step.ended;
    }
    if (last || ended_) return absl::OkStatus();
    // What the decoder holds back would come before the next part.
    char more;
    IMAGEFS_ASSIGN_OR_RETURN(const ZstdStream::Step step,
                             stream_->Run(blob, absl::MakeSpan(&more, 1)));
    ended_ = step.ended;
    return step.produced == 0 ? absl::OkStatus() : Damaged("a part of another size");
  }

 private:
  const std::unique_ptr<ZstdStream> stream_;
  bool ended_ = false;
};

// Goes through the blocks of one frame after the other.
class PartFinder {
 public:
  PartFinder(ByteRange range, uint32_t part_bytes, ReadBlobBytes read,
             absl::FunctionRef<absl::Status(std::string_view)> content,
             std::unique_ptr<ZstdStream> stream)
      : end_(range.end),
        part_bytes_(part_bytes),
        read_(read),
        content_(content),
        stream_(std::move(stream)),
        at_(range.begin) {}

  absl::StatusOr<std::vector<ZstdPart>> Run() {
    while (at_ < end_) {
      std::string head;
      IMAGEFS_RETURN_IF_ERROR(Read(head, std::min<uint64_t>(kMaxZstdHeadBytes, end_ - at_)));
      if (head.size() >= kSkippableHeadBytes && IsSkippableZstd(GetLittleEndian<uint32_t>(head))) {
        at_ += kSkippableHeadBytes + GetLittleEndian<uint32_t>(head, kDescriptorAt);
        continue;
      }
      IMAGEFS_RETURN_IF_ERROR(ZstdPartsMemory(head).status());
      IMAGEFS_RETURN_IF_ERROR(Frame(head));
    }
    return std::move(parts_);
  }

 private:
  // Reads the next bytes, without going on.
  absl::Status Read(std::string& into, uint64_t bytes) {
    if (bytes > end_ - at_) return Damaged("it ends too early");
    into.resize(bytes);
    return read_(absl::MakeSpan(into), at_);
  }

  absl::Status Frame(std::string_view head) {
    const bool checksum = (static_cast<uint8_t>(head[kDescriptorAt]) & kHasChecksum) != 0;
    const std::optional<size_t> head_bytes = ZstdHeadBytes(head);
    if (!head_bytes.has_value()) return Damaged("it ends too early");
    stream_->Reset();
    part_ = ZstdPart();
    hash_ = Sha256();
    part_.begins = true;
    part_.blob = {at_, at_};
    IMAGEFS_RETURN_IF_ERROR(Feed(*head_bytes));
    for (bool last = false; !last;) {
      std::string block;
      IMAGEFS_RETURN_IF_ERROR(Read(block, kBlockHeadBytes));
      const uint32_t bits = static_cast<uint8_t>(block[0]) | static_cast<uint8_t>(block[1]) << 8 |
                            static_cast<uint8_t>(block[2]) << 16;
      last = (bits & 1) != 0;
      const uint32_t type = bits >> 1 & 3, size = bits >> 3;
      if (type == kReserved || size > kMaxBlockBytes) return Damaged("an impossible block");
      IMAGEFS_RETURN_IF_ERROR(Feed(kBlockHeadBytes + (type == kRepeated ? 1 : size) +
                                   (last && checksum ? kChecksumBytes : 0)));
      if (last ? part_.data_bytes > 0 : part_.data_bytes >= part_bytes_) EndPart();
    }
    return absl::OkStatus();
  }

  // Decodes the next bytes, which belong to the part.
  absl::Status Feed(uint64_t bytes) {
    IMAGEFS_RETURN_IF_ERROR(Read(buffer_, bytes));
    at_ += bytes;
    part_.blob.end = at_;
    hash_.Update(buffer_);
    std::string_view rest = buffer_;
    out_.resize(kMaxBlockBytes);
    while (true) {
      IMAGEFS_ASSIGN_OR_RETURN(const ZstdStream::Step step,
                               stream_->Run(rest, absl::MakeSpan(out_)));
      rest.remove_prefix(step.consumed);
      part_.data_bytes += static_cast<uint32_t>(step.produced);
      IMAGEFS_RETURN_IF_ERROR(content_(std::string_view(out_.data(), step.produced)));
      if (step.produced < out_.size() && rest.empty()) return absl::OkStatus();
      if (step.consumed == 0 && step.produced == 0) return Damaged("it ends too early");
    }
  }

  void EndPart() {
    part_.digest = hash_.Finish();
    parts_.push_back(std::exchange(part_, ZstdPart()));
    part_.blob = {at_, at_};
  }

  const uint64_t end_;
  const uint32_t part_bytes_;
  const ReadBlobBytes read_;
  const absl::FunctionRef<absl::Status(std::string_view)> content_;
  const std::unique_ptr<ZstdStream> stream_;
  uint64_t at_;
  ZstdPart part_;
  Sha256 hash_;
  std::string buffer_, out_;
  std::vector<ZstdPart> parts_;
};

}  // namespace

absl::StatusOr<uint64_t> ZstdPartsMemory(std::string_view head) {
  const std::optional<ZstdDemand> demand = ZstdDemandOf(head.substr(0, kMaxZstdHeadBytes));
  if (!demand.has_value() || demand->window == 0) return Damaged("this is none");
  if (demand->memory > kMaxZstdPartsWindow) {
    return absl::UnimplementedError(
        StrCat("a zstd frame with a window of ", demand->window, " bytes is not decoded in parts"));
  }
  return demand->memory + kBufferBytes;
}

absl::StatusOr<std::unique_ptr<ZstdPartsDecoder>> ZstdPartsDecoder::Create() {
  IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<ZstdStream> stream, ZstdStream::Create());
  return std::make_unique<PartsDecoder>(std::move(stream));
}

absl::StatusOr<std::vector<ZstdPart>> FindZstdParts(
    ByteRange range, uint32_t part_bytes, ReadBlobBytes read,
    absl::FunctionRef<absl::Status(std::string_view)> content) {
  IMAGEFS_ASSIGN_OR_RETURN(std::unique_ptr<ZstdStream> stream, ZstdStream::Create());
  return PartFinder(range, part_bytes, read, content, std::move(stream)).Run();
}

}  // namespace imagefs
