// SPDX-License-Identifier: Apache-2.0
// decode BLOB DIFF_ID WORK: how fast the stages of making a layer run on one gzip blob that lies in
// the page cache, against igzip alone on one core. Prints JSON with MB/s of tar.
//   igzip      ISA-L over the whole blob, output thrown away
//   stage      image/decompress.h in the same way
//   sha256     the hash alone
//   layer      MakeLayer: both hashes, decompression, writing the tar, parsing, the index
//   spans      the same by the layer's span table, on as many threads as there are processors
#include <fcntl.h>
#include <isa-l/igzip_lib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/digest.h"
#include "base/executor.h"
#include "base/fd.h"
#include "base/processors.h"
#include "base/status.h"
#include "cache/layer_maker.h"
#include "cache/span_table_maker.h"
#include "image/decompress.h"

namespace imagefs {
namespace {

constexpr size_t kOut = 1 << 18;

uint64_t Igzip(std::string_view blob) {
  std::vector<uint8_t> out(kOut);
  auto state = std::make_unique<inflate_state>();
  isal_gzip_header header;
  isal_inflate_init(state.get());
  state->crc_flag = ISAL_GZIP;
  isal_gzip_header_init(&header);
  state->next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(blob.data()));
  state->avail_in = blob.size();
  uint64_t total = 0;
  do {
    state->next_out = out.data();
    state->avail_out = out.size();
    if (isal_inflate(state.get()) != ISAL_DECOMP_OK) return 0;
    total += out.size() - state->avail_out;
  } while (state->block_state != ISAL_BLOCK_FINISH);
  return total;
}

uint64_t Stage(std::string_view blob) {
  auto decompressor = Decompressor::Create(SniffCompression(blob.substr(0, 6)));
  if (!decompressor.ok()) return 0;
  std::vector<char> out(kOut);
  uint64_t total = 0;
  while (true) {
    auto step = (*decompressor)->Run(blob, absl::MakeSpan(out));
    if (!step.ok()) return 0;
    blob.remove_prefix(step->consumed);
    total += step->produced;
    if (step->consumed == 0 && step->produced == 0) return total;
  }
}

uint64_t Hash(std::string_view blob, uint64_t tar_bytes) {
  Sha256 sha;
  uint64_t total = 0;
  while (total < tar_bytes) {
    sha.Update(blob);
    total += blob.size();
  }
  sha.Finish();
  return total;
}

// A blob and its span table, once there is one.
struct Subject {
  std::string_view blob;
  Digest blob_digest, diff_id;
  std::string work;
  std::unique_ptr<SpanTableReader> table;
};

// Makes the layer, by the table if there is one.
absl::StatusOr<LayerOutput> Make(const Subject& subject) {
  const std::string_view blob = subject.blob;
  std::filesystem::remove_all(subject.work);
  std::filesystem::create_directories(subject.work);
  std::atomic<uint64_t> unpacked = 0;
  auto read = [blob](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    const size_t size =
        std::min<uint64_t>(buffer.size(), blob.size() - std::min<uint64_t>(offset, blob.size()));
    std::memcpy(buffer.data(), blob.data() + offset, size);
    return size;
  };
  LayerInput input{subject.blob_digest, blob.size(), subject.diff_id, read};
  if (subject.table == nullptr) return MakeLayer(input, subject.work, CancelToken(), unpacked);
  static Executor threads(ThreadRole::kFill, UsableProcessors());
  auto window = [&](const SpanEntry& span) -> absl::StatusOr<std::string> {
    return std::string(subject.table->WindowOf(span));
  };
  const SpanStream::Decoding spans{*subject.table, window, threads,
                                   std::make_shared<LivePriority>(Priority::kForeground)};
  input.spans = &spans;
  return MakeLayer(input, subject.work, CancelToken(), unpacked);
}

uint64_t Layer(const Subject& subject) {
  auto made = Make(subject);
  if (made.ok()) return made->tar_bytes;
  std::fprintf(stderr, "%s\n", made.status().ToString().c_str());
  return 0;
}

absl::StatusOr<std::unique_ptr<SpanTableReader>> TableOf(const Subject& subject) {
  IMAGEFS_ASSIGN_OR_RETURN(LayerOutput made, Make(subject));
  IMAGEFS_ASSIGN_OR_RETURN(const Fd data, OpenFile(subject.work + "/data", O_RDONLY));
  auto read = [&](absl::Span<char> out, uint64_t offset) {
    std::memcpy(out.data(), subject.blob.data() + offset, out.size());
    return absl::OkStatus();
  };
  const SpanTableInput input{subject.blob_digest,   subject.blob.size(), subject.diff_id,
                             made.tar_bytes,        made.data_bytes,     std::move(made.points),
                             std::move(made.moves), data.get(),          read};
  IMAGEFS_ASSIGN_OR_RETURN(const SpanTable table, MakeSpanTable(input, CancelToken()));
  IMAGEFS_ASSIGN_OR_RETURN(std::string bytes, WriteSpanTable(table));
  return SpanTableReader::FromBytes(std::move(bytes));
}

void Report(const char* name, const char* end, const std::function<uint64_t()>& run) {
  double best = 0;
  for (int i = 0; i < 3; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    const uint64_t bytes = run();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    best = std::max(best, bytes / took.count() / 1e6);
  }
  std::printf("\"%s\": %.0f%s", name, best, end);
}

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bench_decode BLOB DIFF_ID WORK\n");
    return 2;
  }
  const int fd = open(argv[1], O_RDONLY | O_CLOEXEC);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) return 1;
  void* map = mmap(nullptr, st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (map == MAP_FAILED) return 1;
  const std::string_view blob(static_cast<const char*>(map), st.st_size);
  auto diff_id = Digest::Parse(argv[2]);
  if (!diff_id.ok()) return 1;
  Subject subject{blob, Sha256Of(blob), *diff_id, argv[3], nullptr};
  const uint64_t tar_bytes = Igzip(blob);
  std::printf("{\"tar_bytes\": %llu, ", static_cast<unsigned long long>(tar_bytes));
  Report("igzip", ", ", [&] { return Igzip(blob); });
  Report("stage", ", ", [&] { return Stage(blob); });
  Report("sha256", ", ", [&] { return Hash(blob, tar_bytes); });
  Report("layer", ", ", [&] { return Layer(subject); });
  auto table = TableOf(subject);
  if (!table.ok()) {
    std::fprintf(stderr, "%s\n", table.status().ToString().c_str());
    return 1;
  }
  subject.table = *std::move(table);
  Report("spans", "}\n", [&] { return Layer(subject); });
  return 0;
}

}  // namespace
}  // namespace imagefs

int main(int argc, char** argv) { return imagefs::Main(argc, argv); }
