// SPDX-License-Identifier: Apache-2.0
#include "cache/index_trust.h"

#include "base/text.h"

namespace imagefs {
namespace {

// Returns whether `pattern` matches all of `text`, in |pattern| * |text| steps: a row tells which
// prefixes of the text the pattern so far matches.
bool Matches(std::string_view pattern, std::string_view text) {
  std::vector<bool> row(text.size() + 1);
  row[0] = true;
  for (size_t p = 0; p < pattern.size(); ++p) {
    if (pattern[p] != '*') {
      for (size_t t = text.size(); t > 0; --t) row[t] = row[t - 1] && text[t - 1] == pattern[p];
      row[0] = false;
      continue;
    }
    const bool across = p + 1 < pattern.size() && pattern[p + 1] == '*';
    if (across) ++p;
    for (size_t t = 1; t <= text.size(); ++t) {
      row[t] = row[t] || (row[t - 1] && (across || text[t - 1] != '/'));
    }
  }
  return row[text.size()];
}

}  // namespace

IndexTrust LazyPolicy::For(const Reference& reference) const {
  const IndexTrust trust = Named(reference);
  return never_.has_value() ? trust.Without(*never_) : trust;
}

IndexTrust LazyPolicy::Named(const Reference& reference) const {
  if (reference.transport != Reference::Transport::kRegistry) return otherwise_;
  if (pinned_.has_value() && reference.digest.has_value()) return *pinned_;
  const std::string name = StrCat(reference.host, "/", reference.repository);
  for (const std::string& pattern : any_) {
    if (Matches(pattern, name)) return IndexTrust::Any();
  }
  return otherwise_;
}

absl::Status LazyPolicy::CheckPattern(std::string_view pattern) {
  constexpr std::string_view kHostOnly = ":[]";
  constexpr std::string_view kOthers = "*/._-";
  const size_t slash = pattern.find('/');
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const bool plain = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    const bool in_host =
        i < slash && (kHostOnly.find(c) != std::string_view::npos || (c >= 'A' && c <= 'Z'));
    if (plain || in_host || kOthers.find(c) != std::string_view::npos) continue;
    return absl::InvalidArgumentError(
        StrCat("\"", Printable(pattern),
               "\" has a character that no repository has; a pattern is "
               "like \"registry.example/team/**\", without a tag or a digest"));
  }
  // A pattern of a single component names a host or nothing.
  if (pattern.empty() || (slash == std::string_view::npos && pattern != "**")) {
    return absl::InvalidArgumentError(StrCat("\"", Printable(pattern),
                                             "\" names no repository; a pattern is like "
                                             "\"registry.example/**\" or \"docker.io/library/*\""));
  }
  return absl::OkStatus();
}

std::string_view IndexSourceName(IndexSource source) {
  switch (source) {
    case IndexSource::kInImage:
      return "in-image";
    case IndexSource::kBeside:
      return "beside";
    case IndexSource::kConfigured:
      return "configured";
    case IndexSource::kSigned:
      return "signed";
    case IndexSource::kUnverified:
      return "unverified";
  }
  return "in-image";
}

IndexTrust TrustTrusted(const Reference&) { return IndexTrust::Trusted(); }

IndexTrust TrustOfImage(const TrustOf& trust_of, const ResolvedImage& image) {
  const absl::StatusOr<Reference> reference = Reference::Parse(image.reference);
  return reference.ok() ? trust_of(*reference) : IndexTrust::None();
}

}  // namespace imagefs
