// SPDX-License-Identifier: Apache-2.0
// A source of an image's bytes: one repository of a registry accessed with one identity, an OCI
// layout, or an archive. The boundary between remote bytes and local disk.
//
// Thread-safe. Asynchronous methods return immediately; `done` runs exactly once, on a thread of
// the source (inline allowed), with kCancelled if the token fires first. It may block on local
// disk, except for that of ReadBlob, which runs on the thread that receives all transfers.
// Transient errors (kUnavailable, 429, 5xx, interrupted connections) have already been retried with
// backoff and Retry-After, unless the caller does that itself (ReadOptions).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "base/byte_range.h"
#include "base/cancel.h"
#include "base/executor.h"
#include "base/fd.h"
#include "base/flight.h"
#include "fetch/credentials.h"
#include "fetch/endpoint_health.h"
#include "fetch/endpoint_identity.h"
#include "fetch/hosts.h"
#include "fetch/http.h"
#include "fetch/proxy_choice.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

class RegistryWriter;

// A blob that is already on local disk, compressed or not, inside `fd`.
struct LocalBlob {
  Fd fd;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// Attaches the delay that the server asked for.
absl::Status WithRetryAfter(absl::Status failure, std::chrono::seconds pause);
std::optional<std::chrono::seconds> RetryAfterOf(const absl::Status& failure);

class ImageSource {
 public:
  virtual ~ImageSource() = default;

  // Identifies the authorization under which the bytes are fetched: host, repository and credential
  // fingerprint.
  virtual std::string auth_scope() const = 0;
  // The origin: the registry's host as written in the reference, or the path of a layout or
  // archive.
  virtual std::string registry() const = 0;
  // True if the bytes are fetched without credentials and may thus be shared with everybody.
  virtual bool anonymous() const { return false; }

  struct FetchedManifest {
    Digest digest;             // of `bytes`, verified
    std::string content_type;  // without parameters, "" if unknown
    std::string bytes;
  };
  using ManifestDone = absl::AnyInvocable<void(absl::StatusOr<FetchedManifest>)>;
  // `tag_or_digest`: from Reference::TagOrDigest, or a digest from an index.
  virtual void GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                           ManifestDone done) = 0;

  using ReferrersDone = absl::AnyInvocable<void(absl::StatusOr<std::vector<Descriptor>>)>;
  // Returns the manifests that refer to the manifest `subject`: descriptors with their
  // artifact_type and annotations, each digest once; all types if `artifact_type` is "". The list
  // is empty if there are none, and for layouts and archives.
  virtual void GetReferrers(const Digest& subject, const std::string& artifact_type,
                            CancelToken cancel, ReferrersDone done);

  using SmallBlobDone = absl::AnyInvocable<void(absl::StatusOr<std::string>)>;
  // Returns a small blob (a config) in memory, with digest and size verified.
  virtual void GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                            SmallBlobDone done) = 0;

  // Whether bytes come over a network, so that fetching a part may be cheaper than the whole.
  virtual bool remote() const { return false; }

  // If the source does not have this blob, further requests for it, even by descriptors without
  // urls, try its `urls` anonymously and in order.
  virtual void LearnUrls(const Descriptor& blob) { (void)blob; }

  // Returns whether the blob exists, with that size, for this identity, without fetching it. A blob
  // that exists only at its urls does not count: only reading all of it would show that.
  using HasBlobDone = absl::AnyInvocable<void(absl::StatusOr<bool>)>;
  virtual void HasBlob(const Descriptor& blob, CancelToken cancel, HasBlobDone done) = 0;

  // Returns the blob's file if it is on local disk; nullopt: use ReadBlob.
  virtual absl::StatusOr<std::optional<LocalBlob>> OpenLocal(const Descriptor& blob) {
    (void)blob;
    return std::nullopt;
  }

  // Receives bytes of a blob. Every source guarantees the following, and a sink must not assume
  // more (tests/fakes/fetch/source_contract.h):
  // - Each byte of the ranges is delivered exactly once, and no other byte, regardless of what the
  //   registry repeats or sends in addition, and of interrupted connections.
  // - Calls are serialized. They come in any order and in pieces of any size: a large range is
  //   fetched by several requests whose bytes interleave, and one may be ahead of another by its
  //   whole length.
  // - There is no call after one that returned an error, after the token fired and `done` ran, or
  //   after `done`.
  // - Only the number of bytes is checked: their content may be wrong. An error stops the transfer,
  //   which then fails with it. May block on local disk only.
  using BlobSink = absl::AnyInvocable<absl::Status(uint64_t offset, std::string_view data)>;
  using BlobDone = absl::AnyInvocable<void(absl::Status)>;
  // Reads the union of `ranges`, which may be empty, overlapping and in any order. Large ranges are
  // read by several concurrent requests, each resumed where it was interrupted; the source alone
  // decides how to split them. Returns OK if every byte was delivered; on an error, any part may
  // have been. Returns kInvalidArgument, before any byte, for a range that is reversed or not
  // within the blob's size, and kDataLoss if the blob has another size or the responses make no
  // sense.
  struct ReadOptions {
    ReadOptions(PriorityRef p) : priority(std::move(p)) {}  // NOLINT(google-explicit-constructor)
    ReadOptions(std::nullptr_t) {}                          // NOLINT(google-explicit-constructor)
    PriorityRef priority;  // null = kForeground; may be raised while the read is running
    // The caller decides when to retry: a failure is delivered immediately, unless the response was
    // interrupted after it had delivered some bytes.
    bool once = false;
    // Another read of these bytes is stalled. This one uses its own connection, and other stalled
    // ones to its host yield to it.
    bool hedge = false;
    // The bytes read before were wrong: do not use a remembered link, ask the source again.
    bool anew = false;
    // Fail with kUnimplemented rather than receive the whole blob from a server that sends no
    // parts.
    bool only_parts = false;
  };
  virtual void ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges, ReadOptions options,
                        CancelToken cancel, BlobSink sink, BlobDone done) = 0;

 protected:
  // Returns the ranges that ReadBlob must deliver, or its kInvalidArgument.
  static absl::StatusOr<RangeSet> UnionOf(const Descriptor& blob,
                                          const std::vector<ByteRange>& ranges);
};

// State that sources share: connections, tokens, limits. One per daemon.
class SourceFactory {
 public:
  struct Options {
    HttpClient::Options http;
    int max_attempts = 5;  // per request
    std::chrono::milliseconds first_backoff{200};
    uint64_t range_bytes = 8 << 20;       // larger blobs are read in ranges of this size
    int ranges_per_blob = 3;              // in flight at once
    uint64_t push_chunk_bytes = 8 << 20;  // larger blobs are pushed in chunks of this size
    HostResolver::Options hosts;          // default: no mirrors, the system's trust
    // Returns this machine's credential for a mirror, other than `refused`; an empty one if there
    // is none. May block. May be null.
    std::function<absl::StatusOr<Credential>(const Reference& mirror, const Credential& refused)>
        mirror_credential;
  };
  static absl::StatusOr<std::unique_ptr<SourceFactory>> Create(const Options& options);
  virtual ~SourceFactory() = default;

  struct Access {
    Credential credential;
    // Called when the registry rejects the credential, so that reads keep working long after it has
    // expired. May be null.
    CredentialRefresh refresh;
    // Why there is no credential although one may be stored, for the message if the registry
    // requires one; "" = nothing is wrong.
    std::string credential_trouble;
    bool plain_http = false;  // loopback hosts are tried by HTTP even without it
    bool verify_tls = true;
    std::shared_ptr<const ProxySettings> proxies;  // null = those of this process
  };
  virtual absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference& reference,
                                                            const Access& access) = 0;
  // The same repository, to push to (fetch/registry_writer.h).
  virtual absl::StatusOr<std::shared_ptr<RegistryWriter>> OpenWriter(const Reference& reference,
                                                                     const Access& access) {
    (void)reference, (void)access;
    return absl::UnimplementedError("nothing can be pushed here");
  }
  struct Counters {
    HttpClient::Counters http;
    FlightCounters tokens;  // flights that fetch bearer tokens
    uint64_t retries = 0, resumes = 0, redirects = 0;
    uint64_t failovers = 0;  // requests that went on at another endpoint
  };
  virtual Counters counters() const = 0;
  // By host and kind of request.
  virtual std::vector<EndpointTraffic::Row> traffic() const { return {}; }
  // Why requests to a registry ("docker.io") are being repeated, and how often they have been:
  // "... has sent nothing for 10 s, attempt 2 of 5"; "" = they are not.
  virtual std::string TroubleOf(const std::string& registry) const {
    (void)registry;
    return "";
  }
  // Endpoints in trouble, and the configuration files of endpoints in use.
  virtual std::vector<EndpointHealth::Row> endpoints_in_trouble() const { return {}; }
  virtual std::vector<std::string> hosts_files() const { return {}; }
};

}  // namespace imagefs
