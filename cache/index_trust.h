// SPDX-License-Identifier: Apache-2.0
// Who vouches for the description of a layer before its bytes were hashed locally, and which of
// them a use trusts. Value types; pure.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

enum class IndexSource : uint8_t {
  kInImage,     // the image itself: a table of contents in its layer, SOCI named by its manifest
  kBeside,      // pushed to the image's repository, by anybody with push access
  kConfigured,  // a repository that the configuration names
  kSigned,      // a key that the configuration names
  kUnverified,  // whoever sends the blob: there is no index, nor a digest of any part
};
inline constexpr IndexSource kIndexSources[] = {IndexSource::kInImage, IndexSource::kBeside,
                                                IndexSource::kConfigured, IndexSource::kSigned,
                                                IndexSource::kUnverified};
// "in-image", "beside", "configured", "signed", "unverified".
std::string_view IndexSourceName(IndexSource source);
// Used in place of a source name if no trust is needed: every byte was hashed locally.
inline constexpr std::string_view kProvenSource = "proven";

// A set of sources. Empty: layers are unpacked as a whole only.
class IndexTrust {
 public:
  constexpr IndexTrust() = default;
  constexpr IndexTrust(std::initializer_list<IndexSource> sources) {
    for (const IndexSource source : sources) bits_ |= Bit(source);
  }
  static constexpr IndexTrust None() { return {}; }
  static constexpr IndexTrust Trusted() { return {IndexSource::kConfigured, IndexSource::kSigned}; }
  // Trusted(), whoever may push to the repository of the image, and whoever serves it.
  static constexpr IndexTrust Repository() {
    return {IndexSource::kBeside, IndexSource::kConfigured, IndexSource::kSigned,
            IndexSource::kUnverified};
  }
  // Trusted(), and what the image says of itself.
  static constexpr IndexTrust Configured() {
    return {IndexSource::kInImage, IndexSource::kConfigured, IndexSource::kSigned};
  }
  static constexpr IndexTrust Any() {
    return {IndexSource::kInImage, IndexSource::kBeside, IndexSource::kConfigured,
            IndexSource::kSigned, IndexSource::kUnverified};
  }
  constexpr IndexTrust Without(IndexSource source) const {
    IndexTrust rest = *this;
    rest.bits_ &= static_cast<uint8_t>(~Bit(source));
    return rest;
  }
  constexpr bool Allows(IndexSource source) const { return (bits_ & Bit(source)) != 0; }
  // Whether a layer may be used that is not proven: described by an index of that source, or made
  // by a pass over its blob, for which any trust is enough.
  constexpr bool AllowsUnproven(bool by_pass, IndexSource source) const {
    return by_pass ? !empty() : Allows(source);
  }
  constexpr bool empty() const { return bits_ == 0; }
  friend constexpr bool operator==(IndexTrust, IndexTrust) = default;

 private:
  static constexpr uint8_t Bit(IndexSource source) {
    return static_cast<uint8_t>(1U << static_cast<unsigned>(source));
  }
  uint8_t bits_ = 0;
};

// The trust of one kind of user (the command, containerd, podman), by image.
using TrustOf = std::function<IndexTrust(const Reference&)>;
// IndexTrust::Trusted() for every image.
IndexTrust TrustTrusted(const Reference& reference);
// Returns None if the image's reference cannot be parsed.
IndexTrust TrustOfImage(const TrustOf& trust_of, const ResolvedImage& image);

// A TrustOf from the configuration: any source for images of certain repositories, a fixed trust
// for all others.
class LazyPolicy {
 public:
  // `any`: patterns of host/repository as in Reference, such as "registry.example/team/**". `*`
  // matches any characters within a component, `**` also across components; both may match nothing.
  // REQUIRES: CheckPattern accepts each.
  explicit LazyPolicy(IndexTrust otherwise = IndexTrust::Trusted(),
                      std::vector<std::string> any = {})
      : otherwise_(otherwise), any_(std::move(any)) {}

  // Sets the trust for references with a digest. The trust for others covers bytes that the digest
  // does not.
  LazyPolicy& Pinned(IndexTrust trust) {
    pinned_ = trust;
    return *this;
  }

  // Does not trust that source for any reference.
  LazyPolicy& Never(IndexSource source) {
    never_ = source;
    return *this;
  }

  IndexTrust For(const Reference& reference) const;
  IndexTrust otherwise() const { return otherwise_; }

  // Returns kInvalidArgument for a pattern that can match no reference.
  static absl::Status CheckPattern(std::string_view pattern);

 private:
  IndexTrust Named(const Reference& reference) const;
  IndexTrust otherwise_;
  std::optional<IndexTrust> pinned_;
  std::vector<std::string> any_;
  std::optional<IndexSource> never_;
};

}  // namespace imagefs
