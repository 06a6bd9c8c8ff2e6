// SPDX-License-Identifier: Apache-2.0
#include "image/pax_records.h"

#include <algorithm>
#include <limits>

#include "base/status.h"
#include "base/text.h"

namespace imagefs {
namespace {

constexpr std::string_view kXattrPrefix = "SCHILY.xattr.";
constexpr size_t kMaxXattrName = 255;
constexpr size_t kMaxXattrValue = 65535;  // Linux allows 65536, an index one less

constexpr std::pair<std::string_view, std::string_view PaxRecords::*> kPaxKeys[] = {
    {"path", &PaxRecords::path},
    {"linkpath", &PaxRecords::link},
    {"mtime", &PaxRecords::mtime},
    {"size", &PaxRecords::size},
    {"uid", &PaxRecords::uid},
    {"gid", &PaxRecords::gid},
    {"uname", &PaxRecords::uname},
    {"gname", &PaxRecords::gname},
    {"atime", &PaxRecords::atime},
    {"ctime", &PaxRecords::ctime},
    {"GNU.sparse.name", &PaxRecords::sparse_name},
    {"GNU.sparse.major", &PaxRecords::sparse_major},
    {"GNU.sparse.minor", &PaxRecords::sparse_minor},
    {"GNU.sparse.map", &PaxRecords::sparse_map},
    {"GNU.sparse.numblocks", &PaxRecords::sparse_count},
    {"GNU.sparse.size", &PaxRecords::sparse_size},
    {"GNU.sparse.realsize", &PaxRecords::sparse_real_size},
};

absl::Status Malformed() { return absl::DataLossError("a malformed PAX record"); }

}  // namespace

std::optional<int64_t> PaxNumber(std::string_view text) {
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const std::optional<uint64_t> value = ParseDecimal(text);
  const uint64_t limit = uint64_t{1} << 63;
  if (!value.has_value() || *value > limit - (negative ? 0 : 1)) return std::nullopt;
  return static_cast<int64_t>(negative ? ~*value + 1 : *value);
}

std::optional<PaxTime> ParsePaxTime(std::string_view text) {
  const size_t dot = text.find('.');
  const std::optional<int64_t> seconds = PaxNumber(text.substr(0, dot));
  if (!seconds.has_value()) return std::nullopt;
  uint32_t nanoseconds = 0;
  if (dot != std::string_view::npos) {
    std::string fraction(text.substr(dot + 1));
    if (!std::all_of(fraction.begin(), fraction.end(), [](char c) { return c >= '0' && c <= '9'; }))
      return std::nullopt;
    fraction.resize(9, '0');
    nanoseconds = static_cast<uint32_t>(*ParseDecimal(fraction));
  }
  if (text.starts_with('-') && nanoseconds > 0) {
    return PaxTime{*seconds - 1, 1'000'000'000 - nanoseconds};
  }
  return PaxTime{*seconds, nanoseconds};
}

// Records are "<length> <key>=<value>\n", where the length counts the whole record.
absl::Status PaxRecords::Parse() {
  std::string_view rest = body;
  while (!rest.empty()) {
    const size_t blank = rest.find(' ');
    const std::optional<int64_t> length = PaxNumber(rest.substr(0, blank));
    if (!length.has_value() || blank == std::string_view::npos ||
        *length < static_cast<int64_t>(blank + 2) || *length > static_cast<int64_t>(rest.size())) {
      return Malformed();
    }
    const size_t size = static_cast<size_t>(*length);
    const std::string_view record = rest.substr(blank + 1, size - blank - 2);
    const size_t equals = record.find('=');
    if (rest[size - 1] != '\n' || equals == std::string_view::npos || equals == 0) {
      return Malformed();
    }
    rest.remove_prefix(size);
    IMAGEFS_RETURN_IF_ERROR(Add(record.substr(0, equals), record.substr(equals + 1)));
  }
  if (!joined_map_.empty()) {
    joined_map_.pop_back();
    sparse_map = joined_map_;
  }
  return absl::OkStatus();
}

absl::Status PaxRecords::Add(std::string_view key, std::string_view value) {
  const auto impossible = [&] {
    return absl::DataLossError(
        StrCat("a PAX record \"", Printable(key), "\" of an impossible name or value"));
  };
  if (key.find('\0') != std::string_view::npos) return impossible();
  if (key.starts_with(kXattrPrefix)) {
    xattrs_.emplace_back(key.substr(kXattrPrefix.size()), value);
    return absl::OkStatus();
  }
  // Sparse version 0.0 repeats its keys: offset, length, offset, ...
  if (key == "GNU.sparse.offset" || key == "GNU.sparse.numbytes") {
    const bool is_length = key == "GNU.sparse.numbytes";
    if (is_length != length_is_due_ || value.find(',') != std::string_view::npos) {
      return impossible();
    }
    length_is_due_ = !is_length;
    StrAppend(&joined_map_, value, ",");
    return absl::OkStatus();
  }
  const auto* const found = std::find_if(std::begin(kPaxKeys), std::end(kPaxKeys),
                                         [&](const auto& pair) { return pair.first == key; });
  if (found == std::end(kPaxKeys)) return absl::OkStatus();
  this->*(found->second) = value;
  const bool text = key == "path" || key == "linkpath" || key == "uname" || key == "gname";
  if (text && value.find('\0') != std::string_view::npos) {
    return absl::InvalidArgumentError(StrCat("a NUL in the PAX record \"", key, "\" (\"",
                                             Printable(value), "\"); no file can have it"));
  }
  return absl::OkStatus();
}

bool PaxRecords::IsSparse() const {
  const std::string_view major = sparse_major, minor = sparse_minor;
  if (major.empty() && minor.empty()) return !sparse_map.empty();
  return (major == "0" && (minor == "0" || minor == "1")) || (major == "1" && minor == "0");
}

absl::StatusOr<std::vector<Xattr>> PaxRecords::Xattrs() const {
  auto sorted = xattrs_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<Xattr> out;
  for (size_t i = 0; i < sorted.size(); ++i) {
    const auto& [name, value] = sorted[i];
    if (i + 1 < sorted.size() && sorted[i + 1].first == name) continue;
    if (name.empty() || name.size() > kMaxXattrName || value.size() > kMaxXattrValue) {
      return absl::InvalidArgumentError(
          StrCat("tar: an xattr \"", Printable(name), "\" of ", value.size(),
                 " bytes exceeds the limit of Linux; remove it and build the image again"));
    }
    out.push_back({std::string(name), std::string(value)});
  }
  return out;
}

void PaxRecords::Clear() {
  body.clear();
  for (const auto& [name, member] : kPaxKeys) this->*member = {};
  xattrs_.clear();
  joined_map_.clear();
  length_is_due_ = false;
}

}  // namespace imagefs
