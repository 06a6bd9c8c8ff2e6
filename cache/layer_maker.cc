// SPDX-License-Identifier: Apache-2.0
#include "cache/layer_maker.h"

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/mapped_file.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "base/units.h"
#include "cache/span_table_maker.h"
#include "image/decompress.h"
#include "image/erofs_layer.h"
#include "image/erofs_writer.h"
#include "image/layer_builder.h"
#include "image/tar.h"

namespace imagefs {
namespace {

// Small enough that a chunk is still in the L2 cache when it is hashed and copied.
constexpr size_t kChunkBytes = 256 << 10;
constexpr size_t kTarChunks = 8;
constexpr size_t kBlobChunks = 4;
// What SniffCompression needs.
constexpr size_t kSniffBytes = 6;
constexpr size_t kDiskBlockBytes = 4096;

// A ring of chunks between the thread that fills them and the one that uses them. Either side may
// end it with an error, which the other then sees.
class ChunkRing {
 public:
  explicit ChunkRing(size_t chunks) : chunks_(chunks) {
    for (auto& chunk : chunks_) chunk.data = std::make_unique_for_overwrite<char[]>(kChunkBytes);
  }

  // Producer: the next free chunk, or null after Abort. It may still be read after Publish, until
  // the next Reserve.
  char* Reserve() {
    absl::MutexLock lock(&mu_);
    auto free_or_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
      return aborted_ || head_ - tail_ < chunks_.size();
    };
    MayBlock("waiting for the next thread of a layer");
    mu_.Await(absl::Condition(&free_or_over));
    return aborted_ ? nullptr : chunks_[head_ % chunks_.size()].data.get();
  }
  void Publish(size_t size) {
    absl::MutexLock lock(&mu_);
    chunks_[head_ % chunks_.size()].size = size;
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
    MayBlock("waiting for the thread before it in a layer");
    mu_.Await(absl::Condition(&full_or_over));
    if (head_ > tail_) {
      holding_ = true;
      const Chunk& chunk = chunks_[tail_ % chunks_.size()];
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
  std::vector<Chunk> chunks_;  // their number never changes
  size_t head_ ABSL_GUARDED_BY(mu_) = 0;
  size_t tail_ ABSL_GUARDED_BY(mu_) = 0;
  bool holding_ ABSL_GUARDED_BY(mu_) = false;
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
  bool aborted_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

// Hashes a blob on a thread of its own, while another one decompresses it.
class BlobHasher {
 public:
  BlobHasher() : thread_([this] { Run(); }) {}
  ~BlobHasher() { Join(); }
  BlobHasher(const BlobHasher&) = delete;
  BlobHasher& operator=(const BlobHasher&) = delete;

  // A buffer of kChunkBytes for the next bytes. Waits if the hash lags behind.
  char* Buffer() { return ring_.Reserve(); }
  // The buffer's first `size` bytes continue the blob. They do not change until Buffer is called.
  void Add(size_t size) { ring_.Publish(size); }
  // After the last byte.
  Digest Finish() {
    Join();
    return hash_.Finish();
  }

 private:
  void Run() {
    EnterThread(ThreadRole::kUnpack);
    while (true) {
      const absl::StatusOr<std::string_view> chunk = ring_.Next();
      if (!chunk.ok() || chunk->empty()) return;
      hash_.Update(*chunk);
    }
  }
  void Join() {
    ring_.Close(absl::OkStatus());
    if (thread_.joinable()) thread_.join();
  }

  ChunkRing ring_{kBlobChunks};
  Sha256 hash_;  // of the thread until it is joined
  std::thread thread_;
};

// Decompresses all of `in` into ring chunks; `out`/`fill` carry over a partially filled chunk.
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

// Reads the blob's bytes at `offset`: at its beginning as many as are needed to recognize its
// format. 0 at the end.
absl::StatusOr<size_t> ReadPart(const LayerInput& input, char* buffer, uint64_t offset) {
  size_t got = 0;
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(
        const size_t n, input.read(absl::MakeSpan(buffer + got, kChunkBytes - got), offset + got));
    got += n;
    if (n == 0 || offset + got >= kSniffBytes) return got;
  }
}

absl::Status CheckBlob(const LayerInput& input, const Digest& got, uint64_t bytes) {
  if (got == input.blob_digest && bytes == input.blob_size) return absl::OkStatus();
  return absl::DataLossError(StrCat("blob ", input.blob_digest.ToString(),
                                    ": the bytes received have digest ", got.ToString(),
                                    " and size ", bytes, " (announced: ", input.blob_size,
                                    "); the registry or a proxy altered them"));
}

// The producing thread: reads the blob, has it hashed, decompresses it into the ring.
absl::Status Produce(const LayerInput& input, const CancelToken& cancel, ChunkRing& ring,
                     std::vector<RestartPoint>& points) {
  ZstdWindowGrant grant;
  if (input.windows != nullptr) {
    grant = [&](uint64_t bytes) { return input.windows(bytes, cancel); };
  }
  std::unique_ptr<Decompressor> decompressor;
  BlobHasher hasher;
  char* out = nullptr;
  size_t fill = 0;
  uint64_t offset = 0;
  while (true) {
    char* const buffer = hasher.Buffer();
    IMAGEFS_ASSIGN_OR_RETURN(const size_t n, ReadPart(input, buffer, offset));
    const std::string_view part(buffer, n);
    if (n > 0) hasher.Add(n);
    offset += n;
    if (decompressor == nullptr) {
      const LayerCompression compression = input.form.kind == LayerForm::Kind::kFile
                                               ? LayerCompression::kNone
                                               : SniffCompression(part);
      IMAGEFS_ASSIGN_OR_RETURN(decompressor,
                               Decompressor::Create(compression, kPointSpacing, grant));
    }
    IMAGEFS_RETURN_IF_ERROR(Decode(*decompressor, part, ring, out, fill));
    if (n == 0) break;
  }
  IMAGEFS_RETURN_IF_ERROR(CheckBlob(input, hasher.Finish(), offset));
  IMAGEFS_RETURN_IF_ERROR(decompressor->Finish());
  if (out != nullptr && fill > 0) ring.Publish(fill);
  points = decompressor->points();
  return absl::OkStatus();
}

// Checks the limits of an expanding blob before bytes are written.
class UnpackGuard {
 public:
  explicit UnpackGuard(const LayerInput& input)
      : blob_(input.blob_digest), blob_size_(input.blob_size), space_(input.space) {
    if (__builtin_mul_overflow(blob_size_, input.limits.ratio, &limit_) ||
        __builtin_add_overflow(limit_, input.limits.any_layer, &limit_)) {
      limit_ = UINT64_MAX;
    }
  }

  absl::Status Allow(uint64_t bytes) {
    unpacked_ += bytes;
    if (unpacked_ > limit_) {
      return absl::FailedPreconditionError(StrCat(
          "blob ", blob_.ToString(), ": its ", FormatBytes(blob_size_), " expand to more than the ",
          FormatBytes(limit_), " allowed for a layer of that size; ask whoever built the image"));
    }
    if (space_ == nullptr) return absl::OkStatus();
    return Annotate(space_->Admit(bytes, StoreSpace::Writer::kWhole),
                    StrCat("unpacking blob ", blob_.ToString()));
  }

 private:
  const Digest blob_;
  const uint64_t blob_size_;
  uint64_t limit_ = 0;
  uint64_t unpacked_ = 0;
  StoreSpace* const space_;
};

absl::Status MoveSegments(int fd, const std::vector<LayerBuilder::Move>& moves,
                          UnpackGuard& guard) {
  for (const LayerBuilder::Move& move : moves) {
    IMAGEFS_RETURN_IF_ERROR(
        CopyBytes({fd, move.from}, {fd, move.to}, move.length, [&](size_t bytes) {
          // A single byte occupies a whole disk block.
          return guard.Allow(std::max(bytes, kDiskBlockBytes));
        }));
  }
  return absl::OkStatus();
}

absl::Status CheckDiffId(const Sha256& tar, const Digest& diff_id) {
  const Digest got = tar.Copy().Finish();
  if (got == diff_id) return absl::OkStatus();
  return absl::DataLossError(StrCat("its tar has digest ", got.ToString(),
                                    " but the image's configuration says DiffID ",
                                    diff_id.ToString()));
}

// Compares with what the layer's form says, or completes the form.
absl::Status CheckContent(const Sha256& hash, const Digest& diff_id, LayerForm& form) {
  if (form.is_tar()) return CheckDiffId(hash, diff_id);
  const Digest got = hash.Copy().Finish();
  if (form.content.empty()) form.content = got;
  if (got == form.content) return absl::OkStatus();
  return absl::DataLossError(StrCat("its content has digest ", got.ToString(),
                                    " instead of the expected ", form.content.ToString()));
}

absl::StatusOr<LayerBuilder::Result> ReadErofs(int data_fd, uint64_t bytes) {
  constexpr std::string_view kWhat = "the layer's data file";
  IMAGEFS_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Map(data_fd, kWhat));
  if (file.bytes().size() < bytes) return absl::DataLossError(StrCat(kWhat, " is too short"));
  absl::StatusOr<LayerBuilder::Result> result = ReadErofsLayer(file.bytes().substr(0, bytes));
  IMAGEFS_RETURN_IF_ERROR(file.CheckWhole(kWhat));
  return result;
}

absl::Status Drain(TarSource source) {
  while (true) {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view chunk, source());
    if (chunk.empty()) return absl::OkStatus();
  }
}

// The consuming side: hashes the layer's bytes while parsing them. `next` delivers them, once they
// are in `data_fd`. `hash` is
// left unfinished, with all of them added; null: they are not hashed.
absl::StatusOr<LayerBuilder::Result> Consume(LayerForm& form, const Digest& diff_id, int data_fd,
                                             TarSource next, uint64_t& tar_bytes, Sha256* hash) {
  LayerBuilder builder;
  auto source = [&]() -> absl::StatusOr<std::string_view> {
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view chunk, next());
    if (hash != nullptr) hash->Update(chunk);
    tar_bytes += chunk.size();
    return chunk;
  };
  using Kind = LayerForm::Kind;
  const bool tar = form.kind == Kind::kTar || form.kind == Kind::kBlobTar;
  if (tar) {
    IMAGEFS_RETURN_IF_ERROR(ReadTar(source, [&](TarEntry& entry) { return builder.Add(entry); }));
  } else {
    IMAGEFS_RETURN_IF_ERROR(Drain(source));
  }
  if (hash != nullptr) IMAGEFS_RETURN_IF_ERROR(CheckContent(*hash, diff_id, form));
  if (form.kind == Kind::kFile) return FileTree(form.file, tar_bytes);
  if (form.kind == Kind::kErofs) return ReadErofs(data_fd, tar_bytes);
  return std::move(builder).Finish(tar_bytes);
}

// Adds bytes of the data file to the hash.
absl::Status HashFile(int data, uint64_t begin, uint64_t end, const CancelToken& cancel,
                      Sha256& hash) {
  std::string buffer(kChunkBytes, '\0');
  for (uint64_t at = begin; at < end;) {
    if (cancel.cancelled()) return absl::CancelledError("the layer is no longer wanted");
    const size_t want = std::min<uint64_t>(kChunkBytes, end - at);
    const absl::Span<char> part(buffer.data(), want);
    IMAGEFS_RETURN_IF_ERROR(PreadExact(data, part, at, "the layer's data file"));
    hash.Update(std::string_view(buffer.data(), want));
    at += want;
  }
  return absl::OkStatus();
}

// Returns the checksums of the data file and the index. `hash` has the tar added already.
absl::StatusOr<LayerSums> SumsOf(Sha256 hash, const LayerOutput& output, int data, int index) {
  LayerSums sums;
  IMAGEFS_RETURN_IF_ERROR(HashFile(data, output.tar_bytes, output.data_bytes, CancelToken(), hash));
  sums.data = hash.Finish();
  IMAGEFS_ASSIGN_OR_RETURN(sums.index, Crc32cOfFile(index));
  return sums;
}

// One thread decompresses the blob, this one does the rest. `hash` as for Consume.
absl::StatusOr<LayerBuilder::Result> Unpack(const LayerInput& input, int data, UnpackGuard& guard,
                                            const CancelToken& cancel,
                                            std::atomic<uint64_t>& unpacked_bytes,
                                            LayerOutput& output, Sha256& hash) {
  ChunkRing ring(kTarChunks);
  // Also fires if the parser fails while the decoder waits for memory.
  CancelSource stop;
  const CancelToken::Registration on_cancel = cancel.OnCancel([stop]() mutable { stop.Cancel(); });
  std::thread producer([&] {
    EnterThread(ThreadRole::kUnpack);
    ring.Close(Produce(input, stop.token(), ring, output.points));
  });
  auto next = [&]() -> absl::StatusOr<std::string_view> {
    if (cancel.cancelled()) return absl::CancelledError("the layer is no longer wanted");
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view chunk, ring.Next());
    IMAGEFS_RETURN_IF_ERROR(guard.Allow(chunk.size()));
    IMAGEFS_RETURN_IF_ERROR(PwriteFull(data, chunk, output.tar_bytes));
    unpacked_bytes.store(output.tar_bytes + chunk.size(), std::memory_order_relaxed);
    return chunk;
  };
  absl::StatusOr<LayerBuilder::Result> result = Consume(
      output.form, input.diff_id, data, next, output.tar_bytes, input.hash_tar ? &hash : nullptr);
  ring.Abort();
  stop.Cancel();
  producer.join();
  return result;
}

// Many threads decode the blob and write the tar; this one parses it.
absl::StatusOr<LayerBuilder::Result> UnpackBySpans(const LayerInput& input, int data,
                                                   UnpackGuard& guard, const CancelToken& cancel,
                                                   std::atomic<uint64_t>& unpacked_bytes,
                                                   LayerOutput& output, Sha256& hash) {
  auto admit = [&guard](uint64_t bytes) { return guard.Allow(bytes); };
  SpanStream stream(*input.spans, input.read, admit, data);
  auto next = [&]() -> absl::StatusOr<std::string_view> {
    if (cancel.cancelled()) return absl::CancelledError("the layer is no longer wanted");
    IMAGEFS_ASSIGN_OR_RETURN(const std::string_view chunk, stream.Next());
    unpacked_bytes.store(output.tar_bytes + chunk.size(), std::memory_order_relaxed);
    return chunk;
  };
  IMAGEFS_ASSIGN_OR_RETURN(LayerBuilder::Result result, Consume(output.form, input.diff_id, data,
                                                                next, output.tar_bytes, nullptr));
  IMAGEFS_ASSIGN_OR_RETURN(SpanStream::Hashes hashes, stream.Finish());
  IMAGEFS_RETURN_IF_ERROR(CheckBlob(input, hashes.blob, input.blob_size));
  IMAGEFS_RETURN_IF_ERROR(CheckDiffId(hashes.tar, input.diff_id));
  hash = std::move(hashes.tar);
  output.points = PointsOf(input.spans->table);
  return result;
}

}  // namespace

absl::StatusOr<LayerOutput> IndexData(int data_fd, uint64_t tar_bytes, const LayerForm& form,
                                      const Digest& diff_id, int index_fd,
                                      const CancelToken& cancel) {
  auto buffer = std::make_unique_for_overwrite<char[]>(kChunkBytes);
  LayerOutput output;
  output.form = form;
  auto next = [&]() -> absl::StatusOr<std::string_view> {
    if (cancel.cancelled()) return absl::CancelledError("the index is no longer wanted");
    const size_t want = std::min<uint64_t>(kChunkBytes, tar_bytes - output.tar_bytes);
    IMAGEFS_ASSIGN_OR_RETURN(
        const size_t got, PreadFull(data_fd, absl::MakeSpan(buffer.get(), want), output.tar_bytes));
    if (got != want) return absl::DataLossError("the layer's data file is too short");
    return std::string_view(buffer.get(), got);
  };
  Sha256 hash;
  IMAGEFS_ASSIGN_OR_RETURN(LayerBuilder::Result result,
                           Consume(output.form, diff_id, data_fd, next, output.tar_bytes, &hash));
  output.data_bytes = result.data_size;
  output.moves = std::move(result.moves);
  IMAGEFS_ASSIGN_OR_RETURN(output.index_bytes,
                           WriteLayerIndex(result.tree, diff_id, output.data_bytes, index_fd));
  IMAGEFS_ASSIGN_OR_RETURN(output.sums, SumsOf(std::move(hash), output, data_fd, index_fd));
  return output;
}

absl::StatusOr<LayerOutput> MakeLayer(const LayerInput& input, const std::string& directory,
                                      const CancelToken& cancel,
                                      std::atomic<uint64_t>& unpacked_bytes) {
  IMAGEFS_ASSIGN_OR_RETURN(Fd data, OpenFile(directory + "/data", O_RDWR | O_CREAT | O_EXCL, 0600));
  UnpackGuard guard(input);
  LayerOutput output;
  output.form = input.form;
  Sha256 hash;
  absl::StatusOr<LayerBuilder::Result> result =
      input.spans != nullptr
          ? UnpackBySpans(input, data.get(), guard, cancel, unpacked_bytes, output, hash)
          : Unpack(input, data.get(), guard, cancel, unpacked_bytes, output, hash);
  if (!result.ok()) {
    // A tree that was too large was freed; without this the allocator would keep its memory.
    if (absl::IsFailedPrecondition(result.status())) malloc_trim(0);
    return result.status();
  }
  IMAGEFS_RETURN_IF_ERROR(MoveSegments(data.get(), result->moves, guard));
  if (ftruncate(data.get(), static_cast<off_t>(result->data_size)) != 0) {
    return ErrnoStatus(errno, directory + "/data");
  }
  output.data_bytes = result->data_size;
  output.moves = std::move(result->moves);
  IMAGEFS_ASSIGN_OR_RETURN(Fd index,
                           OpenFile(directory + "/index", O_RDWR | O_CREAT | O_EXCL, 0600));
  IMAGEFS_ASSIGN_OR_RETURN(output.index_bytes, WriteLayerIndex(result->tree, input.diff_id,
                                                               output.data_bytes, index.get()));
  if (!input.hash_tar) {
    IMAGEFS_ASSIGN_OR_RETURN(output.sums.index, Crc32cOfFile(index.get()));
    return output;
  }
  IMAGEFS_ASSIGN_OR_RETURN(output.sums, SumsOf(std::move(hash), output, data.get(), index.get()));
  return output;
}

absl::StatusOr<Digest> HashData(int data_fd, uint64_t tar_bytes, uint64_t data_bytes,
                                const Digest& diff_id, const CancelToken& cancel) {
  Sha256 hash;
  IMAGEFS_RETURN_IF_ERROR(HashFile(data_fd, 0, tar_bytes, cancel, hash));
  IMAGEFS_RETURN_IF_ERROR(CheckDiffId(hash, diff_id));
  IMAGEFS_RETURN_IF_ERROR(HashFile(data_fd, tar_bytes, data_bytes, cancel, hash));
  return hash.Finish();
}

}  // namespace imagefs
