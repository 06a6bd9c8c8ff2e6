// SPDX-License-Identifier: Apache-2.0
#include "cmd/list_filter.h"

#include <fnmatch.h>

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "image/reference.h"
#include "proto/control.pb.h"

namespace imagefs {
namespace {

using control::v1::Image;
using control::v1::ListImagesReply;
using control::v1::ListMountsReply;
using control::v1::Mount;

constexpr std::string_view kImageKeys[] = {"reference", "state",  "digest",
                                           "platform",  "pinned", "used"};
constexpr std::string_view kMountKeys[] = {"directory", "reference", "mode", "state"};
constexpr std::string_view kAlgorithm = "sha256:";
constexpr size_t kFewestDigits = 12;  // that many are shown
constexpr size_t kAllDigits = 64;

bool IsPattern(std::string_view text) {
  return text.find_first_of("*?[") != std::string_view::npos;
}

bool MatchesPattern(const std::string& pattern, const std::string& text) {
  return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

// As it is, or as short as docker allows it to be typed.
bool MatchesReference(const std::string& pattern, const std::string& reference) {
  for (const std::string_view implied : {"", "docker.io/", "docker.io/library/"}) {
    if (reference.starts_with(implied) &&
        MatchesPattern(pattern, reference.substr(implied.size()))) {
      return true;
    }
  }
  return false;
}

std::string_view Word(bool value) { return value ? "true" : "false"; }

// Of a name as typed: whether the last component has a tag or a digest.
bool HasTagOrDigest(std::string_view name) {
  const size_t slash = name.rfind('/');
  const std::string_view last = slash == std::string_view::npos ? name : name.substr(slash + 1);
  return last.find_first_of(":@") != std::string_view::npos;
}

template <typename Entries, typename Keep>
void KeepIf(Entries* entries, Keep keep) {
  entries->erase(std::remove_if(entries->begin(), entries->end(),
                                [&](const auto& entry) { return !keep(entry); }),
                 entries->end());
}

}  // namespace

absl::Span<const std::string_view> ImageFilterKeys() { return kImageKeys; }
absl::Span<const std::string_view> MountFilterKeys() { return kMountKeys; }

std::string ListFilter::WhyNot(std::string_view filter, absl::Span<const std::string_view> keys) {
  const size_t equals = filter.find('=');
  std::string names;
  for (const std::string_view key : keys) {
    if (equals != std::string_view::npos && filter.substr(0, equals) == key) {
      const bool flag = key == "pinned" || key == "used";
      const std::string_view value = filter.substr(equals + 1);
      if (flag && value != "true" && value != "false") return StrCat(key, " is true or false");
      return "";
    }
    StrAppend(&names, names.empty() ? "" : ", ", key);
  }
  return StrCat("\"", PrintableName(filter, 60),
                "\" is no filter; it is KEY=PATTERN, and the keys are ", names);
}

ListFilter::ListFilter(const std::vector<std::string>& filters) {
  for (const std::string& filter : filters) {
    const size_t equals = filter.find('=');
    if (equals != std::string::npos) {
      values_[filter.substr(0, equals)].push_back(filter.substr(equals + 1));
    }
  }
}

bool ListFilter::Matches(const std::string& key, const std::string& value) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return true;
  return std::any_of(found->second.begin(), found->second.end(), [&](const std::string& pattern) {
    if (key == "reference") return MatchesReference(pattern, value);
    if (key == "digest" && IsDigestName(pattern)) return DigestMatches(value, pattern);
    return MatchesPattern(pattern, value);
  });
}

void ListFilter::Apply(ListImagesReply* reply) const {
  KeepIf(reply->mutable_images(), [this](const Image& image) {
    return Matches("reference", image.reference()) &&
           Matches("state", image.shared().empty() ? image.state() : "shared") &&
           Matches("digest", image.manifest_digest()) && Matches("platform", image.platform()) &&
           Matches("pinned", std::string(Word(image.pinned()))) &&
           Matches("used", std::string(Word(image.used_by_size() > 0)));
  });
}

void ListFilter::Apply(ListMountsReply* reply) const {
  KeepIf(reply->mutable_mounts(), [this](const Mount& mount) {
    return Matches("directory", mount.directory()) && Matches("reference", mount.reference()) &&
           Matches("mode", mount.mode()) && Matches("state", mount.state());
  });
}

bool IsDigestName(std::string_view text) {
  if (text.starts_with(kAlgorithm)) text.remove_prefix(kAlgorithm.size());
  return text.size() >= kFewestDigits && text.size() <= kAllDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool DigestMatches(std::string_view digest, std::string_view name) {
  if (!digest.starts_with(kAlgorithm)) return false;
  if (!name.starts_with(kAlgorithm)) digest.remove_prefix(kAlgorithm.size());
  return digest.starts_with(name);
}

void KeepNamed(std::string_view name, const Reference* reference, ListImagesReply* reply) {
  const std::string text(name);
  const std::string whole = reference == nullptr ? "" : reference->ToString();
  const bool all_tags = reference != nullptr &&
                        reference->transport == Reference::Transport::kRegistry &&
                        !HasTagOrDigest(name);
  const std::string repository =
      all_tags ? StrCat(reference->host, "/", reference->repository) : "";
  KeepIf(reply->mutable_images(), [&](const Image& image) {
    const std::string& have = image.reference();
    if (IsDigestName(name) && DigestMatches(image.manifest_digest(), name)) return true;
    if (IsPattern(name) && MatchesReference(text, have)) return true;
    if (!whole.empty() && have == whole) return true;
    return all_tags && have.size() > repository.size() && have.starts_with(repository) &&
           (have[repository.size()] == ':' || have[repository.size()] == '@');
  });
}

}  // namespace imagefs
