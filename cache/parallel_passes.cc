// SPDX-License-Identifier: Apache-2.0
#include "cache/parallel_passes.h"

#include <unistd.h>

#include <memory>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/processors.h"
#include "base/status.h"
#include "base/text.h"
#include "cache/download_file.h"
#include "cache/span_stream.h"
#include "fetch/source.h"
#include "image/span_table.h"

namespace imagefs {
namespace {

bool HasEnoughProcessors(const ParallelPasses::Options& options) {
  if (options.least_processors <= 0) return false;
  const int processors = options.processors > 0 ? options.processors : UsableProcessors();
  return processors >= options.least_processors;
}

// Whether a failure may be the table's. Any other is that of the blob's source, of the disk, or of
// who no longer wants the layer.
bool MayBeOfTable(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kDataLoss:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

// The windows of a table, in the table or on their way.
class Windows {
 public:
  static absl::StatusOr<std::shared_ptr<Windows>> Open(const FoundIndex& found,
                                                       const SpanTableReader& table,
                                                       std::string path, StoreSpace* space,
                                                       const PriorityRef& priority) {
    auto windows = std::make_shared<Windows>(table);
    if (!table.late_windows()) return windows;
    if (!found.windows.has_value() || found.windows_source == nullptr ||
        found.windows->blob.size != table.windows().size()) {
      return absl::DataLossError("its span table lacks its windows");
    }
    IMAGEFS_ASSIGN_OR_RETURN(
        const std::shared_ptr<DownloadFile> file,
        DownloadFile::Open(path, table.windows().size(), space, StoreSpace::Writer::kWhole));
    unlink(path.c_str());
    windows->reader_ = std::make_shared<DownloadFile::Reader>(file);
    ImageSource::ReadOptions options(priority);
    options.once = true;  // without them, the layer is made in another way
    found.windows_source->ReadBlob(
        found.windows->blob, {{0, found.windows->blob.size}}, std::move(options),
        windows->stop_.token(),
        [file](uint64_t offset, std::string_view data) { return file->Write(offset, data); },
        [reader = windows->reader_](const absl::Status& status) { reader->End(status); });
    return windows;
  }
  explicit Windows(const SpanTableReader& table) : table_(table) {}
  ~Windows() { Stop(); }

  void Stop() {
    if (reader_ == nullptr) return;
    reader_->End(absl::CancelledError("the layer is no longer wanted"));
    stop_.Cancel();
  }
  // Blocks until it is here.
  absl::StatusOr<std::string> Get(const SpanEntry& span) {
    std::string window(span.window_bytes, '\0');
    if (reader_ == nullptr) {
      window = std::string(table_.WindowOf(span));
      IMAGEFS_RETURN_IF_ERROR(table_.CheckWhole());
      return window;
    }
    for (size_t got = 0; got < window.size();) {
      IMAGEFS_ASSIGN_OR_RETURN(const size_t n, reader_->Read(absl::MakeSpan(window).subspan(got),
                                                             span.window_offset + got));
      if (n == 0) return absl::DataLossError("the windows of its span table end early");
      got += n;
    }
    return window;
  }

 private:
  const SpanTableReader& table_;
  std::shared_ptr<DownloadFile::Reader> reader_;  // null: they are in the table
  CancelSource stop_;
};

}  // namespace

ParallelPasses::ParallelPasses(const Options& options, FillScheduler& scheduler)
    : options_(options), enough_processors_(HasEnoughProcessors(options)), scheduler_(scheduler) {}

bool ParallelPasses::Wants(const Descriptor& blob) const {
  return enough_processors_ && blob.size >= options_.least_bytes;
}

absl::StatusOr<LayerOutput> ParallelPasses::MakeBySpans(LayerInput& input, const FoundIndex& found,
                                                        const std::string& directory,
                                                        const PriorityRef& priority,
                                                        const CancelToken& cancel,
                                                        std::atomic<uint64_t>& unpacked_bytes,
                                                        absl::Status& windows_status) {
  IMAGEFS_ASSIGN_OR_RETURN(const std::unique_ptr<SpanTableReader> table,
                           SpanTableReader::OpenFd(found.span_table.get(), "span table"));
  IMAGEFS_RETURN_IF_ERROR(
      SpanStream::Check(*table, input.blob_digest, input.blob_size, input.diff_id));
  IMAGEFS_ASSIGN_OR_RETURN(
      const std::shared_ptr<Windows> windows,
      Windows::Open(found, *table, directory + "-windows", input.space, priority));
  const CancelToken::Registration on_cancel = cancel.OnCancel([windows] { windows->Stop(); });
  auto window = [&](const SpanEntry& span) -> absl::StatusOr<std::string> {
    absl::StatusOr<std::string> got = windows->Get(span);
    if (got.ok() || absl::IsCancelled(got.status())) return got;
    windows_status = got.status();
    return absl::DataLossError(got.status().message());
  };
  const SpanStream::Decoding spans{*table, window, scheduler_.work(), priority};
  input.spans = &spans;
  const absl::Cleanup forget = [&input] { input.spans = nullptr; };
  return MakeLayer(input, directory, cancel, unpacked_bytes);
}

ParallelPasses::Result ParallelPasses::Make(LayerInput input, const FoundIndexRef& found,
                                            const std::string& directory,
                                            const PriorityRef& priority, const CancelToken& cancel,
                                            std::atomic<uint64_t>& unpacked_bytes) {
  const absl::Cleanup end = [this] { --running_; };
  if (++running_ > kMostPasses) return {MakeLayer(input, directory, cancel, unpacked_bytes)};
  absl::Status windows;
  absl::StatusOr<LayerOutput> made =
      MakeBySpans(input, *found, directory, priority, cancel, unpacked_bytes, windows);
  if (made.ok()) made_++;
  if (made.ok() || !MayBeOfTable(made.status())) return {std::move(made)};
  const absl::Status why = made.status();
  unpacked_bytes = 0;
  absl::Status cleared = RemoveTree(directory);
  if (cleared.ok()) cleared = MakeDirs(directory, 0700);
  if (!cleared.ok()) return {cleared};
  made = MakeLayer(input, directory, cancel, unpacked_bytes);
  // Else the blob is not the one that it should be, or the image says what is not true of it.
  if (!made.ok()) return {std::move(made)};
  useless_++;
  LogWarning("layer.table_useless layer=", input.diff_id.Short(), " origin=", found->origin,
             " cause=", why.message());
  return {std::move(made), windows.ok()};
}

void ParallelPasses::AppendCounters(std::vector<std::pair<std::string, uint64_t>>& out) const {
  out.emplace_back("layers_parallel", made_.load());
  out.emplace_back("layers_table_useless", useless_.load());
}

}  // namespace imagefs
