// Where an image's bytes come from: one repository of a registry reached with one identity, an OCI
// layout, or an archive. The seam between bytes from elsewhere and bytes on this disk.
//
// Thread-safe. Asynchronous methods return at once; `done` runs exactly once, on a thread of the
// source (inline allowed), with kCancelled when the token fires first. It may block on this disk,
// but for that of ReadBlob, which runs where the bytes of all transfers come. What may pass by
// itself (kUnavailable, 429, 5xx, cut connections) has been retried with back-off and Retry-After
// before an error is delivered, unless the caller wants that for itself (ReadOptions).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
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
#include "fetch/endpoint_identity.h"
#include "fetch/http.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace imagefs {

class RegistryWriter;

// A blob that lies on this machine's disk already, uncompressed or not, inside `fd`.
struct LocalBlob {
  Fd fd;
  uint64_t offset = 0;
  uint64_t length = 0;
};

// A failure that tells how long the server asks to be left alone.
absl::Status WithRetryAfter(absl::Status failure, std::chrono::seconds pause);
std::optional<std::chrono::seconds> RetryAfterOf(const absl::Status& failure);

class ImageSource {
 public:
  virtual ~ImageSource() = default;

  // Identifies whose authorisation the bytes come by: host, repository and credential fingerprint.
  virtual std::string auth_scope() const = 0;
  // Who answers: the registry's host as the reference names it, or the path of a layout or archive.
  virtual std::string registry() const = 0;
  // True when the bytes come without anybody's credentials, so that everybody may have them.
  virtual bool anonymous() const { return false; }

  struct FetchedManifest {
    Digest digest;             // of `bytes`, checked
    std::string content_type;  // without parameters, "" when unknown
    std::string bytes;
  };
  using ManifestDone = absl::AnyInvocable<void(absl::StatusOr<FetchedManifest>)>;
  // `tag_or_digest` as Reference::TagOrDigest gives it, or a digest out of an index.
  virtual void GetManifest(const std::string& tag_or_digest, CancelToken cancel,
                           ManifestDone done) = 0;

  using ReferrersDone = absl::AnyInvocable<void(absl::StatusOr<std::vector<Descriptor>>)>;
  // What is attached to the manifest `subject`: descriptors of manifests, with their artifact_type
  // and annotations, each digest once; all types when `artifact_type` is "". What nobody attached
  // anything to has an empty list, and so has what lies in a layout or an archive.
  virtual void GetReferrers(const Digest& subject, const std::string& artifact_type,
                            CancelToken cancel, ReferrersDone done);

  using SmallBlobDone = absl::AnyInvocable<void(absl::StatusOr<std::string>)>;
  // A whole small blob (a config) in memory, digest and size checked.
  virtual void GetSmallBlob(const Descriptor& blob, uint64_t max_bytes, CancelToken cancel,
                            SmallBlobDone done) = 0;

  // Whether bytes come over a network, so that fetching a part may be cheaper than the whole.
  virtual bool remote() const { return false; }

  // From here on the blob's bytes are asked for at its `urls`, in their order and as nobody, when
  // they are asked for and the source has not got them, also by descriptors without urls.
  virtual void LearnUrls(const Descriptor& blob) { (void)blob; }

  // Whether the blob is there, with that size, for this identity; fetches nothing of it. What is at
  // the urls of a blob alone is not there: they show only to whoever reads all of it that they have
  // it.
  using HasBlobDone = absl::AnyInvocable<void(absl::StatusOr<bool>)>;
  virtual void HasBlob(const Descriptor& blob, CancelToken cancel, HasBlobDone done) = 0;

  // The blob's file when it is on this disk; nullopt: use ReadBlob.
  virtual absl::StatusOr<std::optional<LocalBlob>> OpenLocal(const Descriptor& blob) {
    (void)blob;
    return std::nullopt;
  }

  // Takes bytes of a blob. What every source promises, and no sink may assume more
  // (tests/fakes/fetch/source_contract.h):
  // - Each byte of the ranges is delivered exactly once, whatever the registry repeats or sends
  //   beyond them, and however often a connection is cut; and no other byte.
  // - Calls are serialised. They come in any order and in pieces of any size: a large range is
  //   fetched as several requests whose bytes interleave, and one may be ahead of another by all
  //   that it has.
  // - No call comes after one that returned an error, after the token fired and `done` ran, or
  //   after `done`.
  // - Nothing is checked but counts: the bytes may be wrong.
  // An error ends the transfer with it. May block on local disk only.
  using BlobSink = absl::AnyInvocable<absl::Status(uint64_t offset, std::string_view data)>;
  using BlobDone = absl::AnyInvocable<void(absl::Status)>;
  // Reads the union of `ranges`, which may be empty, overlap and come in any order. Large ones are
  // read as several requests at once, resumed where they were cut: the source alone decides how
  // they are split. OK when every byte was delivered, else why not, and then any part may have
  // been. kInvalidArgument, before any byte, for a range that is reversed or not inside the blob's
  // size; kDataLoss where the blob is known to have another size, or the answers make no sense.
  struct ReadOptions {
    ReadOptions(PriorityRef p) : priority(std::move(p)) {}  // NOLINT(google-explicit-constructor)
    ReadOptions(std::nullptr_t) {}                          // NOLINT(google-explicit-constructor)
    PriorityRef priority;  // null = kForeground; may be raised while the read runs
    // The caller decides when to ask again, and tells of it: a failure is delivered at once, except
    // of an answer that was cut after it had brought something.
    bool once = false;
    // Another read of these bytes is silent. This one has a connection of its own, and those of its
    // host that are silent as well give way to it.
    bool hedge = false;
    // What was read before was wrong: the source itself is asked where the blob is, not what it
    // said of that earlier.
    bool anew = false;
  };
  virtual void ReadBlob(const Descriptor& blob, std::vector<ByteRange> ranges, ReadOptions options,
                        CancelToken cancel, BlobSink sink, BlobDone done) = 0;

 protected:
  // What ReadBlob has to deliver, or its kInvalidArgument.
  static absl::StatusOr<RangeSet> UnionOf(const Descriptor& blob,
                                          const std::vector<ByteRange>& ranges);
};

// Everything that sources share: connections, tokens, limits. One per daemon.
class SourceFactory {
 public:
  struct Options {
    HttpClient::Options http;
    int max_attempts = 5;  // of one request
    std::chrono::milliseconds first_backoff{200};
    uint64_t range_bytes = 8 << 20;       // larger blobs are read in ranges of this size
    int ranges_per_blob = 3;              // in flight at once
    uint64_t push_chunk_bytes = 8 << 20;  // larger blobs are pushed in chunks of this size
  };
  static absl::StatusOr<std::unique_ptr<SourceFactory>> Create(const Options& options);
  virtual ~SourceFactory() = default;

  struct Access {
    Credential credential;
    // Asked when the registry refuses the credential, so that bytes can be read long after it has
    // expired; may be empty.
    CredentialRefresh refresh;
    // Why there is no credential where one may be kept, for the message when the registry wants
    // one; "" = nothing is wrong.
    std::string credential_trouble;
    bool plain_http = false;  // also without it, loopback hosts are tried by HTTP
    bool verify_tls = true;
  };
  virtual absl::StatusOr<std::shared_ptr<ImageSource>> Open(const Reference& reference,
                                                            const Access& access) = 0;
  // The same repository to push to (fetch/registry_writer.h).
  virtual absl::StatusOr<std::shared_ptr<RegistryWriter>> OpenWriter(const Reference& reference,
                                                                     const Access& access) {
    (void)reference, (void)access;
    return absl::UnimplementedError("nothing can be pushed here");
  }
  struct Counters {
    HttpClient::Counters http;
    FlightCounters tokens;  // of the flights that fetch a bearer token
    uint64_t retries = 0, resumes = 0, redirects = 0;
  };
  virtual Counters counters() const = 0;
};

}  // namespace imagefs
