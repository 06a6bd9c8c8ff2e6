// SPDX-License-Identifier: Apache-2.0
#include "base/similar.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace imagefs {
namespace {

constexpr size_t kTooFar = 3;
constexpr size_t kLongestName = 255;

// Returns the edit distance: the number of letters to change, insert, delete or transpose.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  std::iota(d[0].begin(), d[0].end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const bool same = a[i - 1] == b[j - 1];
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string MostSimilar(std::string_view word, absl::Span<const std::string> names) {
  std::string best;
  size_t nearest = kTooFar;
  for (const std::string& name : names) {
    if (std::max(word.size(), name.size()) > kLongestName) continue;
    const size_t lengths =
        word.size() > name.size() ? word.size() - name.size() : name.size() - word.size();
    if (lengths >= nearest) continue;
    const size_t distance = Distance(word, name);
    if (distance >= nearest || distance >= name.size()) continue;
    nearest = distance;
    best = name;
  }
  return best;
}

}  // namespace imagefs
