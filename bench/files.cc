// SPDX-License-Identifier: Apache-2.0
// files MODE ROOT LIST ROUNDS: what one call costs on warm caches. LIST has a path relative to ROOT
// a line. MODE: "stat", "read" (open, read to the end, close), "readdir" (LIST names directories),
// "random" (a thousand preads of 4 KiB of one file, opened once), "mmap" (a byte of each page).
// The first round warms up and is not counted. Prints the median over the rounds of nanoseconds a
// path, and the paths a second.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

bool Stat(const char* path) {
  struct stat st;
  return lstat(path, &st) == 0;
}

bool Read(const char* path) {
  static char buffer[1 << 17];
  const int fd = open(path, O_RDONLY);
  if (fd < 0) return false;
  ssize_t got;
  while ((got = read(fd, buffer, sizeof buffer)) > 0) {
  }
  close(fd);
  return got == 0;
}

bool Random(const char* path) {
  char buffer[4096];
  const int fd = open(path, O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0 || st.st_size < 8192) return false;
  uint64_t state = 1;
  bool good = true;
  for (int i = 0; i < 1000; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    const off_t page =
        static_cast<off_t>((state >> 33) % (static_cast<uint64_t>(st.st_size) / 4096));
    good &= pread(fd, buffer, sizeof buffer, page * 4096) == static_cast<ssize_t>(sizeof buffer);
  }
  close(fd);
  return good;
}

bool Map(const char* path) {
  const int fd = open(path, O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) return false;
  const size_t size = static_cast<size_t>(st.st_size);
  void* const base = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) return false;
  unsigned sum = 0;
  for (size_t at = 0; at < size; at += 4096) sum += static_cast<const volatile char*>(base)[at];
  munmap(base, size);
  close(fd);
  return sum < UINT32_MAX;
}

bool ReadDir(const char* path) {
  DIR* dir = opendir(path);
  if (dir == nullptr) return false;
  while (readdir(dir) != nullptr) {
  }
  closedir(dir);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: bench_files stat|read|readdir|random|mmap ROOT LIST ROUNDS\n");
    return 2;
  }
  const std::string_view mode = argv[1];
  bool (*call)(const char*) = mode == "stat"     ? Stat
                              : mode == "read"   ? Read
                              : mode == "random" ? Random
                              : mode == "mmap"   ? Map
                                                 : ReadDir;
  std::vector<std::string> paths;
  std::ifstream list(argv[3]);
  for (std::string line; std::getline(list, line);) {
    paths.push_back(line);
  }
  // How deep the root itself lies is not what is measured.
  if (chdir(argv[2]) != 0) {
    std::perror(argv[2]);
    return 1;
  }
  std::vector<double> rounds;
  for (int round = 0; round <= std::atoi(argv[4]); ++round) {
    const auto begin = std::chrono::steady_clock::now();
    for (const std::string& path : paths) {
      if (!call(path.c_str())) {
        std::perror(path.c_str());
        return 1;
      }
    }
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
    // With no round more, the first is what is asked for: of a cold cache.
    if (round > 0 || std::atoi(argv[4]) == 0) rounds.push_back(took.count() / paths.size());
  }
  std::sort(rounds.begin(), rounds.end());
  const double median = rounds[rounds.size() / 2];
  std::printf("{\"paths\": %zu, \"ns\": %.0f, \"min_ns\": %.0f, \"per_second\": %.0f}\n",
              paths.size(), median, rounds.front(), 1e9 / median);
  return 0;
}
