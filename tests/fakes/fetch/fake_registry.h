// SPDX-License-Identifier: Apache-2.0
// A fake registry on a loopback port: a real HTTP/1.1 server with blobs, manifests, uploads,
// referrers, tokens and scripted misbehavior for each path. Records every request, so that "each
// byte was requested once" can be asserted. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/byte_range.h"
#include "base/digest.h"
#include "base/fd.h"

namespace imagefs {

class FakeRegistry {
 public:
  struct Request {
    std::string method;
    std::string path;                                 // without the query
    std::string query;                                // without the '?'
    std::multimap<std::string, std::string> headers;  // lower-case names
    std::string body;
    std::string Header(const std::string& name) const;  // the first with that name
    std::vector<std::string> Values(const std::string& name) const;
    std::optional<ByteRange> range() const;  // from "bytes=a-b"
  };

  // Overrides or modifies the usual response.
  struct Behaviour {
    int times = 1;   // number of requests it applies to; -1 = all
    int status = 0;  // 0 = as usual
    std::vector<std::pair<std::string, std::string>> headers;  // replace usual ones of that name
    std::optional<std::string> body;                           // replaces the usual one
    std::optional<uint64_t> cut_after_bytes;   // closes the connection after this much of the body
    std::optional<uint64_t> hold_after_bytes;  // waits for Release after this much of the body
    bool hold = false;                         // waits for Release before sending anything
    std::function<void()> before;              // called before the request takes effect
    bool close = false;                        // closes the connection without a response
    bool cut_head = false;                     // closes the connection within the headers
    bool ignore_range = false;                 // 200 with the whole content
    bool chunked = false;                      // no Content-Length
    bool corrupt = false;                      // flips the body's first byte
    // Closes the connection after this much of the request's body; an upload keeps that part.
    std::optional<uint64_t> cut_request_after_bytes;
    bool read_slowly = false;  // reads the request's body at a megabyte per 40 ms
    bool slow_head = false;    // a header line every 20 ms, forever
    bool slow_body = false;    // a byte every 20 ms
  };

  // How it accepts pushes and lists referrers.
  struct Features {
    uint64_t chunk_min_bytes = 0;    // OCI-Chunk-Min-Length
    bool absolute_location = false;  // of uploads; always with a query
    std::string upload_origin;       // where uploads continue, "http://host:port"; "" = here
    bool mounts = true;
    bool referrers = false;     // the API
    bool lists_itself = false;  // OCI-Subject
    bool filters = true;        // by artifactType
    size_t page_size = 100;     // of the list of referrers
    bool etags = false;         // of manifests
    bool conditions = false;    // If-Match and If-None-Match of pushed manifests
    int no_conditions = 0;      // status of requests with such headers
  };

  struct Auth {
    enum class Kind { kNone, kBasic, kBearer };
    Kind kind = Kind::kNone;
    std::string user, password;  // empty user: the token service accepts anonymous users
    std::string identity_token;  // accepted by POST
    std::string realm;           // "" = this server's /token
    int expires_in = 300;
    int refused_status = 401;  // response to an invalid token
    bool check_scope = false;  // a token is valid only for its scope
  };

  explicit FakeRegistry(const std::string& address = "127.0.0.1");
  ~FakeRegistry();

  std::string host() const { return host_; }  // "127.0.0.1:41234"
  std::string Url(std::string_view path) const;

  Digest AddBlob(const std::string& repository, std::string bytes);
  Digest AddManifest(const std::string& repository, const std::string& tag, std::string bytes,
                     const std::string& content_type);
  // Any other path: 200 with `bytes`.
  void AddFile(const std::string& path, std::string bytes);
  void Remove(const std::string& path);
  void SetFeatures(Features features);
  // Adds an entry (JSON) to the list of referrers of `subject`.
  void AddReferrer(const std::string& repository, const Digest& subject, std::string entry);
  // Adds an upload that another server redirects to, or one started earlier.
  void AddUpload(const std::string& repository, const std::string& id);
  void ForgetUploads();
  size_t uploads() const;  // number of open ones
  // Returns what was pushed to `path`, or nullopt.
  std::optional<std::string> Stored(const std::string& path) const;
  // "/v2/<repository>/blobs/uploads/<n>": the n-th upload, from 1.
  static std::string UploadPath(const std::string& repository, int n);
  static std::string BlobPath(const std::string& repository, const Digest& digest);

  void SetAuth(Auth auth);
  void AcceptToken(const std::string& token);
  void RevokeTokens();

  // Appends to the script of `path`; the oldest behaviour with `times` left applies.
  void On(const std::string& path, Behaviour behaviour);
  // Releases the held requests of `path`, and future ones until On holds them again.
  void Release(const std::string& path);
  // Waits for a total of `count` requests for `path`. Returns false after 20 s.
  bool WaitForRequests(const std::string& path, size_t count);

  std::vector<Request> requests() const;
  std::vector<Request> RequestsFor(const std::string& path) const;
  // Ranges of GET requests for a blob path; a request without Range counts as [0, size).
  std::vector<ByteRange> RangesAsked(const std::string& path) const;
  // Number of accepted connections.
  size_t connections() const;

 private:
  struct Answer {
    int status = 200;
    std::map<std::string, std::string> headers;
    std::string body;
  };
  struct File {
    std::string bytes;
    std::string content_type;
  };
  struct Upload {
    std::string repository;
    std::string bytes;
  };

  void AcceptLoop();
  void Serve(int fd);
  bool ServeOne(int fd, std::string& buffer);
  bool Send(int fd, const Request& request, Answer answer, const Behaviour& behaviour);
  bool WaitForRelease(const std::string& path);
  Answer MakeAnswer(const Request& request, bool ignore_range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer Challenge(const Request& request, int status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // In fake_registry_push.cc; nullopt if the request is not part of a push.
  std::optional<Answer> MakePushAnswer(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer BeginUpload(const Request& request, const std::string& repository)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer ContinueUpload(const Request& request, const std::string& repository)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer TakeManifest(const Request& request, const std::string& repository)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The status of a refusal by a condition of the request, 0 = none.
  int RefusalByCondition(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer ListReferrers(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string Location(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void KeepPartOfChunk(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer MakeToken(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Authorized(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool TokenIsGood(const Request& request, const std::string& token) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Behaviour TakeBehaviour(const std::string& path) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  Fd listener_;
  std::string host_;
  mutable absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::set<int> open_ ABSL_GUARDED_BY(mu_);
  std::vector<std::thread> workers_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, File> files_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::deque<Behaviour>> script_ ABSL_GUARDED_BY(mu_);
  std::set<std::string> released_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> tokens_ ABSL_GUARDED_BY(mu_);  // token -> scope
  Features features_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, Upload> uploads_ ABSL_GUARDED_BY(mu_);  // by path
  int uploads_begun_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, std::vector<std::string>> referrers_ ABSL_GUARDED_BY(mu_);  // by path
  int tokens_issued_ ABSL_GUARDED_BY(mu_) = 0;
  size_t connections_ ABSL_GUARDED_BY(mu_) = 0;
  Auth auth_ ABSL_GUARDED_BY(mu_);
  std::vector<Request> requests_ ABSL_GUARDED_BY(mu_);
  std::thread acceptor_;
};

}  // namespace imagefs
