// SPDX-License-Identifier: Apache-2.0
// Chooses the entries of a list that a caller asked for, by KEY=VALUE as docker and podman do:
// entries must match every key, and of a key that is given more than once, any value. Values are
// patterns of fnmatch(3) in which * also matches /. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"

namespace imagefs {

struct Reference;

namespace control::v1 {
class ListImagesReply;
class ListMountsReply;
}  // namespace control::v1

// The keys that a list has. Those of images: reference, state, digest, platform, pinned, used
// (true or false). Those of mounts: directory, reference, mode, state.
absl::Span<const std::string_view> ImageFilterKeys();
absl::Span<const std::string_view> MountFilterKeys();

class ListFilter {
 public:
  // Returns "" or what is wrong with a filter.
  static std::string WhyNot(std::string_view filter, absl::Span<const std::string_view> keys);

  // REQUIRES: WhyNot is "" for each.
  explicit ListFilter(const std::vector<std::string>& filters);

  bool empty() const { return values_.empty(); }
  // Removes the entries that do not match.
  void Apply(control::v1::ListImagesReply* reply) const;
  void Apply(control::v1::ListMountsReply* reply) const;

 private:
  bool Matches(const std::string& key, const std::string& value) const;

  std::map<std::string, std::vector<std::string>> values_;  // by key
};

// Whether `text` names an image by its digest: at least 12 hexadecimal digits of it, with or
// without "sha256:".
bool IsDigestName(std::string_view text);
// Whether `digest`, "sha256:...", is what the name means. REQUIRES: IsDigestName(name).
bool DigestMatches(std::string_view digest, std::string_view name);

// Keeps the images that `name`, as typed, means: a digest name, a pattern with *, ? or [, or a
// reference, of which one without tag and digest means all tags. `reference` is `name` parsed, null
// if it is no reference.
void KeepNamed(std::string_view name, const Reference* reference,
               control::v1::ListImagesReply* reply);

}  // namespace imagefs
