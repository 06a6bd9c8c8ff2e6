// files MODE ROOT LIST ROUNDS: what one call costs on warm caches. LIST has a path relative to ROOT
// a line. MODE: "stat", "read" (open, read to the end, close), "readdir" (LIST names directories).
// The first round warms up and is not counted. Prints the median over the rounds of nanoseconds a
// path, and the paths a second.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
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
    std::fprintf(stderr, "usage: bench_files stat|read|readdir ROOT LIST ROUNDS\n");
    return 2;
  }
  const std::string_view mode = argv[1];
  bool (*call)(const char*) = mode == "stat" ? Stat : mode == "read" ? Read : ReadDir;
  std::vector<std::string> paths;
  std::ifstream list(argv[3]);
  for (std::string line; std::getline(list, line);) {
    paths.push_back(std::string(argv[2]) + "/" + line);
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
    if (round > 0) rounds.push_back(took.count() / paths.size());
  }
  std::sort(rounds.begin(), rounds.end());
  const double median = rounds[rounds.size() / 2];
  std::printf("{\"paths\": %zu, \"ns\": %.0f, \"min_ns\": %.0f, \"per_second\": %.0f}\n",
              paths.size(), median, rounds.front(), 1e9 / median);
  return 0;
}
