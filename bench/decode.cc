// SPDX-License-Identifier: Apache-2.0
// decode BLOB DIFF_ID WORK: how fast the stages of making a layer run on one gzip blob that lies in
// the page cache, against igzip alone on one core. Prints JSON with MB/s of tar.
//   igzip      ISA-L over the whole blob, output thrown away
//   stage      image/decompress.h in the same way
//   sha256     the hash alone
//   layer      MakeLayer: both hashes, decompression, writing the tar, parsing, the index
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
#include "cache/layer_maker.h"
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

uint64_t Layer(std::string_view blob, const Digest& blob_digest, const Digest& diff_id,
               const std::string& work) {
  std::filesystem::remove_all(work);
  std::filesystem::create_directories(work);
  std::atomic<uint64_t> unpacked = 0;
  auto read = [blob](absl::Span<char> buffer, uint64_t offset) -> absl::StatusOr<size_t> {
    const size_t size =
        std::min<uint64_t>(buffer.size(), blob.size() - std::min<uint64_t>(offset, blob.size()));
    std::memcpy(buffer.data(), blob.data() + offset, size);
    return size;
  };
  const LayerInput input{blob_digest, blob.size(), diff_id, read};
  auto made = MakeLayer(input, work, CancelToken(), unpacked);
  if (!made.ok()) {
    std::fprintf(stderr, "%s\n", made.status().ToString().c_str());
    return 0;
  }
  return made->tar_bytes;
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
  const Digest blob_digest = Sha256Of(blob);
  const uint64_t tar_bytes = Igzip(blob);
  std::printf("{\"tar_bytes\": %llu, ", static_cast<unsigned long long>(tar_bytes));
  Report("igzip", ", ", [&] { return Igzip(blob); });
  Report("stage", ", ", [&] { return Stage(blob); });
  Report("sha256", ", ", [&] { return Hash(blob, tar_bytes); });
  Report("layer", "}\n", [&] { return Layer(blob, blob_digest, *diff_id, argv[3]); });
  return 0;
}

}  // namespace
}  // namespace imagefs

int main(int argc, char** argv) { return imagefs::Main(argc, argv); }
