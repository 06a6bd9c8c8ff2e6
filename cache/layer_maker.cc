#include "cache/layer_maker.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/status.h"
#include "base/text.h"
#include "image/decompress.h"
#include "image/erofs_writer.h"
#include "image/layer_builder.h"
#include "image/tar.h"

namespace imagefs {
namespace {

// Small enough that a chunk is still in the second-level cache when it is hashed and copied.
constexpr size_t kChunkBytes = 256 << 10;
constexpr size_t kChunks = 8;

// A ring of chunks between the thread that decompresses and the one that parses. Either side may
// end it with an error, which the other then sees.
class ChunkRing {
 public:
  ChunkRing() {
    for (auto& chunk : chunks_) chunk.data = std::make_unique_for_overwrite<char[]>(kChunkBytes);
  }

  // Producer: the next free chunk, or null after Abort.
  char* Reserve() {
    absl::MutexLock lock(&mu_);
    auto free_or_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return aborted_ || head_ - tail_ < kChunks;
    };
    mu_.Await(absl::Condition(&free_or_over));
    return aborted_ ? nullptr : chunks_[head_ % kChunks].data.get();
  }
  void Publish(size_t size) {
    absl::MutexLock lock(&mu_);
    chunks_[head_ % kChunks].size = size;
    ++head_;
  }
  void Close(absl::Status status) {
    absl::MutexLock lock(&mu_);
    closed_ = true;
    status_ = std::move(status);
  }

  // Consumer: the next chunk, which stays valid until the next call; empty at the end.
  absl::StatusOr<std::string_view> Next() {
    absl::MutexLock lock(&mu_);
    if (holding_) {
      ++tail_;
      holding_ = false;
    }
    auto full_or_over = [this]()
                            ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return closed_ || head_ > tail_; };
    mu_.Await(absl::Condition(&full_or_over));
    if (head_ > tail_) {
      holding_ = true;
      const Chunk& chunk = chunks_[tail_ % kChunks];
      return std::string_view(chunk.data.get(), chunk.size);
    }
    if (!status_.ok()) return status_;
    return std::string_view();
  }
  void Abort() {
    absl::MutexLock lock(&mu_);
    aborted_ = true;
  }

 private:
  struct Chunk {
    std::unique_ptr<char[]> data;
    size_t size = 0;
  };
  absl::Mutex mu_;
  std::array<Chunk, kChunks> chunks_;
  size_t head_ ABSL_GUARDED_BY(mu_) = 0;
  size_t tail_ ABSL_GUARDED_BY(mu_) = 0;
  bool holding_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

// Decompresses `in` wholly into ring chunks; `out`/`fill` carry a chunk begun earlier.
absl::Status Decode(Decompressor& decompressor, std::string_view in, ChunkRing& ring, char*& out,
                    size_t& fill) {
  while (true) {
    if (out == nullptr) {
      out = ring.Reserve();
      if (out == nullptr) return absl::CancelledError("the layer's reader stopped");
      fill = 0;
    }
    IMAGEFS_ASSIGN_OR_RETURN(const Decompressor::Step step,
                             decompressor.Run(in, absl::MakeSpan(out + fill, kChunkBytes - fill)));
    in.remove_prefix(step.consumed);
    fill += step.produced;
    if (fill == kChunkBytes) {
      ring.Publish(fill);
      out = nullptr;
      continue;
    }
    if (in.empty()) return absl::OkStatus();
    if (step.consumed == 0 && step.produced == 0) {
      return absl::InternalError("the decompressor made no progress");
    }
  }
}

// The producing thread: reads and hashes the blob, decompresses it into the ring.
absl::Status Produce(const LayerInput& input, ChunkRing& ring) {
  auto buffer = std::make_unique_for_overwrite<char[]>(kChunkBytes);
  std::unique_ptr<Decompressor> decompressor;
  Sha256 hash;
  char* out = nullptr;
  size_t fill = 0;
  uint64_t offset = 0;
  size_t held = 0;  // bytes kept until there are enough to recognise the format
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(
        const size_t n,
        input.read(absl::MakeSpan(buffer.get() + held, kChunkBytes - held), offset));
    hash.Update(std::string_view(buffer.get() + held, n));
    offset += n;
    held += n;
    if (decompressor == nullptr) {
      if (held < 6 && n > 0) continue;
      const std::string_view head(buffer.get(), held);
      IMAGEFS_ASSIGN_OR_RETURN(decompressor, Decompressor::Create(SniffCompression(head)));
    }
    IMAGEFS_RETURN_IF_ERROR(
        Decode(*decompressor, std::string_view(buffer.get(), held), ring, out, fill));
    held = 0;
    if (n == 0) break;
  }
  const Digest got = hash.Finish();
  if (got != input.blob_digest || offset != input.blob_size) {
    return absl::DataLossError(StrCat("blob ", input.blob_digest.ToString(),
                                      ": the bytes received have digest ", got.ToString(),
                                      " and size ", offset, " (announced: ", input.blob_size,
                                      "); the registry or a proxy altered them"));
  }
  IMAGEFS_RETURN_IF_ERROR(decompressor->Finish());
  if (out != nullptr && fill > 0) ring.Publish(fill);
  return absl::OkStatus();
}

absl::Status MoveSegments(int fd, const std::vector<LayerBuilder::Move>& moves) {
  auto buffer = std::make_unique_for_overwrite<char[]>(kChunkBytes);
  for (const LayerBuilder::Move& move : moves) {
    for (uint64_t done = 0; done < move.length;) {
      const size_t n = std::min<uint64_t>(kChunkBytes, move.length - done);
      IMAGEFS_ASSIGN_OR_RETURN(const size_t got,
                               PreadFull(fd, absl::MakeSpan(buffer.get(), n), move.from + done));
      if (got != n) return absl::DataLossError("a sparse file's segment lies outside the tar");
      IMAGEFS_RETURN_IF_ERROR(PwriteFull(fd, std::string_view(buffer.get(), n), move.to + done));
      done += n;
    }
  }
  return absl::OkStatus();
}

// The consuming side: hashes and writes the tar while it is parsed.
absl::StatusOr<LayerBuilder::Result> Consume(const LayerInput& input, ChunkRing& ring, int data_fd,
                                             const CancelToken& cancel,
                                             std::atomic<uint64_t>& unpacked_bytes,
                                             uint64_t& tar_bytes) {
  Sha256 hash;
  LayerBuilder builder;
  auto source = [&]() -> absl::StatusOr<std::string_view> {
    if (cancel.cancelled()) return absl::CancelledError("nobody waits for the layer any more");
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view chunk, ring.Next());
    hash.Update(chunk);
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(data_fd, chunk, tar_bytes));
    tar_bytes += chunk.size();
    unpacked_bytes.store(tar_bytes, std::memory_order_relaxed);
    return chunk;
  };
  IMAGEFS_RETURN_IF_ERROR(ReadTar(source, [&](TarEntry& entry) { return builder.Add(entry); }));
  const Digest got = hash.Finish();
  if (got != input.diff_id) {
    return absl::DataLossError(
        StrCat("layer ", input.blob_digest.ToString(), ": its tar has digest ", got.ToString(),
               " but the image's configuration says DiffID ", input.diff_id.ToString()));
  }
  return std::move(builder).Finish(tar_bytes);
}

}  // namespace

absl::StatusOr<LayerOutput> MakeLayer(const LayerInput& input, const std::string& directory,
                                      const CancelToken& cancel,
                                      std::atomic<uint64_t>& unpacked_bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd data, OpenFile(directory + "/data", O_RDWR | O_CREAT | O_EXCL, 0600));
  ChunkRing ring;
  std::thread producer([&] { ring.Close(Produce(input, ring)); });
  LayerOutput output;
  absl::StatusOr<LayerBuilder::Result> result =
      Consume(input, ring, data.get(), cancel, unpacked_bytes, output.tar_bytes);
  ring.Abort();
  producer.join();
  if (!result.ok()) return result.status();
  IMAGEFS_RETURN_IF_ERROR(MoveSegments(data.get(), result->moves));
  if (ftruncate(data.get(), static_cast<off_t>(result->data_size)) != 0) {
    return ErrnoStatus(errno, directory + "/data");
  }
  output.data_bytes = result->data_size;
  IMAGEFS_ASSIGN_OR_RETURN(Fd index,
                           OpenFile(directory + "/index", O_RDWR | O_CREAT | O_EXCL, 0600));
  ErofsWriterOptions options;
  options.overlay_form = true;
  options.devices.push_back({input.diff_id.hex(), output.data_bytes});
  IMAGEFS_RETURN_IF_ERROR(WriteErofs(result->tree, options, index.get()));
  struct stat st;
  if (fstat(index.get(), &st) != 0) return ErrnoStatus(errno, directory + "/index");
  output.index_bytes = static_cast<uint64_t>(st.st_size);
  return output;
}

}  // namespace imagefs
