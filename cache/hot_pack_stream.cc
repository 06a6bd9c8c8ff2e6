// SPDX-License-Identifier: Apache-2.0
#include "cache/hot_pack_stream.h"

#include <algorithm>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/status.h"
#include "cache/hot_arrival.h"

namespace imagefs {
namespace {

// Requested one after the other: the front of the pack is needed first, and a source may fetch
// parts of a larger range at the same time.
constexpr uint64_t kPartBytes = 8 << 20;

}  // namespace

class HotPackStream::State : public std::enable_shared_from_this<State> {
 public:
  explicit State(Options options)
      : options_(std::move(options)),
        size_(options_.pack.blob.size),
        arrival_(std::make_shared<HotArrival>(Moment::Now())) {}

  void Start() {
    on_stop_ = options_.stop.OnCancel([cancel = cancel_]() mutable { cancel.Cancel(); });
    options_.make_spool(cancel_.token(), [self = shared_from_this()](absl::StatusOr<Spool> spool) {
      if (!spool.ok()) return self->End(spool.status());
      self->spool_ = *std::move(spool);
      self->FetchFrom(0);
    });
  }

  void Attach(Layers layers, absl::AnyInvocable<void()> ended) {
    bool unknown;
    {
      absl::MutexLock lock(&mu_);
      unknown = over_ || pack_ == nullptr;
      if (!over_) {
        layers_ = std::move(layers);
        if (!unknown) ended_ = std::move(ended);
        attached_ = true;
      }
    }
    if (unknown) ended();
    Offer();
    Continue();
  }
  void Abandon() {
    {
      absl::MutexLock lock(&mu_);
      if (attached_) return;
    }
    cancel_.Cancel();
  }

 private:
  void FetchFrom(uint64_t begin) {
    const uint64_t end = std::min(size_, begin + kPartBytes);
    options_.source->ReadBlob(
        options_.pack.blob, {{begin, end}}, nullptr, cancel_.token(),
        [self = shared_from_this()](uint64_t offset, std::string_view data) {
          return self->OnBytes(offset, data);
        },
        [self = shared_from_this(), end](const absl::Status& status) {
          if (!status.ok()) return self->End(status);
          if (end < self->size_) self->FetchFrom(end);
        });
  }

  absl::Status OnBytes(uint64_t offset, std::string_view data) {
    if (offset > size_ || data.size() > size_ - offset) {
      return absl::InternalError("bytes that were not requested");
    }
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(spool_.file.get(), data, offset));
    {
      absl::MutexLock lock(&mu_);
      received_.Add({offset, offset + data.size()});
      arrived_ = received_.ContiguousEnd(0);
      arrival_->Note(arrived_, Moment::Now());
    }
    Continue();
    return absl::OkStatus();
  }

  // Starts the worker if there is something for it to do. There is one at a time, since what is
  // needed first comes first.
  void Continue() {
    {
      absl::MutexLock lock(&mu_);
      if (working_ || over_ || !ReadyLocked()) return;
      working_ = true;
    }
    options_.work->Submit(std::make_shared<LivePriority>(Priority::kOnDemand),
                          [self = shared_from_this()] { self->Work(); });
  }
  bool ReadyLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (pack_ == nullptr) return arrived_ >= options_.pack.header_bytes;
    if (!shared_out_) return false;
    return next_ == pack_->frames.size() || pack_->frames[next_].blob.end <= arrived_;
  }

  void Work() {
    while (true) {
      std::shared_ptr<const HotPack> pack;
      size_t frame;
      {
        absl::MutexLock lock(&mu_);
        if (over_ || !ReadyLocked()) {
          working_ = false;
          return;
        }
        pack = pack_;
        frame = next_++;
      }
      absl::Status status;
      if (cancel_.token().cancelled()) {
        status = absl::CancelledError("nobody needs it");
      } else if (pack == nullptr) {
        status = ReadHeader();
      } else if (frame < pack->frames.size()) {
        status = AddFrame(*pack, pack->frames[frame]);
      } else {
        return End(CheckWhole());
      }
      if (!status.ok()) return End(status);
    }
  }

  absl::StatusOr<std::string> Read(ByteRange range) const {
    std::string bytes(range.size(), '\0');
    IMAGEFS_RETURN_IF_ERROR(
        PreadExact(spool_.file.get(), absl::MakeSpan(bytes), range.begin, "a hot pack"));
    return bytes;
  }

  absl::Status ReadHeader() {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string header, Read({0, options_.pack.header_bytes}));
    if (Sha256Of(header) != options_.pack.header) {
      return absl::DataLossError("its header does not have its digest");
    }
    IMAGEFS_ASSIGN_OR_RETURN(HotPack pack, HotPack::Parse(header, size_));
    {
      absl::MutexLock lock(&mu_);
      pack_ = std::make_shared<const HotPack>(std::move(pack));
      next_ = 0;
    }
    Offer();
    return absl::OkStatus();
  }

  // Once there are a header and layers.
  void Offer() {
    Layers layers;
    HotOffer offer;
    {
      absl::MutexLock lock(&mu_);
      if (pack_ == nullptr || !attached_ || over_ || std::exchange(offered_, true)) return;
      layers = layers_;
      offer.pack = pack_;
    }
    offer.arrival = arrival_;
    std::vector<std::weak_ptr<FillingLayer>> all;
    for (const auto& [diff_id, layer] : layers) all.push_back(layer);
    offer.lied = [all, lied = options_.lied] {
      if (lied) lied();
      for (const std::weak_ptr<FillingLayer>& one : all) {
        if (const std::shared_ptr<FillingLayer> layer = one.lock()) layer->EndHot(true);
      }
    };
    std::vector<std::shared_ptr<FillingLayer>> taking(offer.pack->layers.size());
    bool any = false;
    for (uint32_t i = 0; i < taking.size(); ++i) {
      for (const auto& [diff_id, layer] : layers) {
        if (diff_id != offer.pack->layers[i].diff_id || !layer->ExpectHot(offer, i)) continue;
        taking[i] = layer;
        any = true;
        break;
      }
    }
    {
      absl::MutexLock lock(&mu_);
      taking_ = std::move(taking);
      shared_out_ = true;
    }
    if (!any) cancel_.Cancel();  // all of it is here, or other layers took their place
  }

  absl::Status AddFrame(const HotPack& pack, const HotPack::Frame& frame) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string packed, Read(frame.blob));
    IMAGEFS_ASSIGN_OR_RETURN(const std::string bytes, UnpackHotFrame(frame, packed));
    std::vector<std::shared_ptr<FillingLayer>> taking;
    {
      absl::MutexLock lock(&mu_);
      taking = taking_;
    }
    uint64_t at = 0;
    for (uint32_t i = frame.first; i < frame.last; ++i) {
      const HotPack::Piece& piece = pack.pieces[i];
      const std::string_view part = std::string_view(bytes).substr(at, piece.range.size());
      at += part.size();
      if (piece.layer < taking.size() && taking[piece.layer] != nullptr) {
        taking[piece.layer]->AddHot(piece.range, part);
      }
    }
    return absl::OkStatus();
  }

  absl::Status CheckWhole() const {
    IMAGEFS_ASSIGN_OR_RETURN(const Digest digest, Sha256OfFile(spool_.file.get()));
    if (digest == options_.pack.blob.digest) return absl::OkStatus();
    return absl::DataLossError("it does not have its digest");
  }

  void End(const absl::Status& status) {
    std::vector<std::shared_ptr<FillingLayer>> taking;
    absl::AnyInvocable<void()> ended;
    {
      absl::MutexLock lock(&mu_);
      if (std::exchange(over_, true)) return;
      taking = std::move(taking_);
      layers_.clear();
      ended = std::move(ended_);
    }
    if (!status.ok() && !absl::IsCancelled(status)) {
      LogWarning("hot_pack.ended digest=", options_.pack.blob.digest.Short(),
                 " cause=", status.message());
    }
    cancel_.Cancel();
    for (const std::shared_ptr<FillingLayer>& layer : taking) {
      if (layer != nullptr) layer->EndHot(false);
    }
    if (ended) ended();
    spool_.room.Return();
    std::shared_ptr<void> keep;
    absl::MutexLock lock(&mu_);
    keep = std::move(options_.keep);
  }

  Options options_;
  const uint64_t size_;
  const std::shared_ptr<HotArrival> arrival_;
  Spool spool_;  // set before the fetch begins
  CancelSource cancel_;
  CancelToken::Registration on_stop_;  // set before anything else happens
  absl::Mutex mu_;
  RangeSet received_ ABSL_GUARDED_BY(mu_);
  uint64_t arrived_ ABSL_GUARDED_BY(mu_) = 0;  // without a gap
  std::shared_ptr<const HotPack> pack_ ABSL_GUARDED_BY(mu_);
  size_t next_ ABSL_GUARDED_BY(mu_) = 0;  // frame
  bool working_ ABSL_GUARDED_BY(mu_) = false, over_ ABSL_GUARDED_BY(mu_) = false;
  bool attached_ ABSL_GUARDED_BY(mu_) = false, offered_ ABSL_GUARDED_BY(mu_) = false;
  bool shared_out_ ABSL_GUARDED_BY(mu_) = false;  // the layers know what will come
  Layers layers_ ABSL_GUARDED_BY(mu_);
  std::vector<std::shared_ptr<FillingLayer>> taking_ ABSL_GUARDED_BY(mu_);  // by layer of the pack
  absl::AnyInvocable<void()> ended_ ABSL_GUARDED_BY(mu_);
};

std::shared_ptr<HotPackStream> HotPackStream::Start(Options options) {
  auto state = std::make_shared<State>(std::move(options));
  state->Start();
  return std::shared_ptr<HotPackStream>(new HotPackStream(std::move(state)));
}

HotPackStream::~HotPackStream() { state_->Abandon(); }

void HotPackStream::Attach(Layers layers, absl::AnyInvocable<void()> ended) {
  state_->Attach(std::move(layers), std::move(ended));
}

}  // namespace imagefs
