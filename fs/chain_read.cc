// SPDX-License-Identifier: Apache-2.0
#include "fs/chain_read.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

// The parts of one read that are on their way. It lives until the last of them has arrived.
class PendingParts : public std::enable_shared_from_this<PendingParts> {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<std::vector<ReadPin>>)>;
  explicit PendingParts(Done done) : done_(std::move(done)) {}

  void Start(const std::vector<std::pair<LayerRef, ByteRange>>& missing, ReaderId reader,
             const CancelToken& cancel) {
    {
      absl::MutexLock lock(&mu_);
      waiting_ = missing.size() + 1;
    }
    for (const auto& [layer, range] : missing) {
      layer->keeper()->Ensure(range, reader, cancel,
                              [self = shared_from_this(), layer = layer](
                                  absl::StatusOr<ReadPin> pin) { self->Arrived(std::move(pin)); });
    }
    Arrived(std::nullopt);
  }

 private:
  void Arrived(std::optional<absl::StatusOr<ReadPin>> pin) {
    absl::Status status;
    std::vector<ReadPin> pins;
    {
      absl::MutexLock lock(&mu_);
      if (pin.has_value()) status_.Update(pin->status());
      if (pin.has_value() && pin->ok()) pins_.push_back(**std::move(pin));
      if (--waiting_ > 0) return;
      status = status_;
      pins = std::move(pins_);
    }
    if (!status.ok()) return done_(std::move(status));
    done_(std::move(pins));
  }

  Done done_;
  absl::Mutex mu_;
  size_t waiting_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
  std::vector<ReadPin> pins_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

absl::Status ReadLayer(const Layer& layer, uint64_t offset, absl::Span<char> out,
                       absl::Span<const ReadPin> pins) {
  IMAGEFS_ASSIGN_OR_RETURN(const size_t got, PreadFull(layer.data.get(), out, offset));
  if (got != out.size()) {
    return absl::DataLossError(StrCat("data file of layer ", layer.diff_id.Short(),
                                      " ends before byte ", offset + out.size(),
                                      "; remove the image and pull it again"));
  }
  const uint64_t end = offset + out.size();
  for (const ReadPin& pin : pins) {
    for (const ReadPin::Memory& part : pin.memory) {
      const uint64_t first = std::max(offset, part.begin);
      const uint64_t last = std::min<uint64_t>(end, part.begin + part.bytes->size());
      if (part.layer != layer.fill.get() || first >= last) continue;
      std::memcpy(out.data() + (first - offset), part.bytes->data() + (first - part.begin),
                  last - first);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadFile(const Chain& chain, Nid nid, uint64_t offset, absl::Span<char> out,
                      absl::Span<const ReadPin> pins) {
  size_t filled = 0;
  while (filled < out.size()) {
    const uint64_t position = offset + filled;
    IMAGEFS_ASSIGN_OR_RETURN(const Extent run, chain.index->Map(nid, position));
    const uint64_t skipped = position - run.file_offset;
    if (run.file_offset > position || skipped >= run.length) {
      return absl::DataLossError("the index maps a byte to a run that does not have it");
    }
    const size_t part = std::min<uint64_t>(out.size() - filled, run.length - skipped);
    const absl::Span<char> target = out.subspan(filled, part);
    if (run.device == 0) {
      std::fill(target.begin(), target.end(), '\0');
    } else if (run.device > chain.layers.size()) {
      return absl::DataLossError("the index names a layer that the chain does not have");
    } else {
      IMAGEFS_RETURN_IF_ERROR(
          ReadLayer(*chain.layers[run.device - 1], run.data_offset + skipped, target, pins));
    }
    filled += part;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::pair<LayerRef, ByteRange>>> MissingParts(const Chain& chain,
                                                                         Nid nid, uint64_t offset,
                                                                         size_t size) {
  std::vector<std::pair<LayerRef, ByteRange>> out;
  const std::vector<LayerRef>& layers = chain.layers;
  if (chain.readable()) return out;
  const uint64_t end = offset + size;
  while (offset < end) {
    IMAGEFS_ASSIGN_OR_RETURN(const Extent run, chain.index->Map(nid, offset));
    const uint64_t skipped = offset - run.file_offset;
    if (run.file_offset > offset || skipped >= run.length) break;  // ReadFile reports the error
    const uint64_t part = std::min(end - offset, run.length - skipped);
    if (run.device > 0 && run.device <= layers.size() && !layers[run.device - 1]->readable()) {
      const uint64_t begin = run.data_offset + skipped;
      out.push_back({layers[run.device - 1], {begin, begin + part}});
    }
    offset += part;
  }
  return out;
}

void EnsureParts(const std::vector<std::pair<LayerRef, ByteRange>>& missing, ReaderId reader,
                 const CancelToken& cancel,
                 absl::AnyInvocable<void(absl::StatusOr<std::vector<ReadPin>>)> done) {
  std::make_shared<PendingParts>(std::move(done))->Start(missing, reader, cancel);
}

}  // namespace imagefs
