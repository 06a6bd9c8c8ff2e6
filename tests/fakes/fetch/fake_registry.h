// A registry on a loopback port for tests: a real HTTP/1.1 server with blobs, manifests, uploads,
// referrers, tokens and a script of misbehaviour for each path. Records every request, so that
// "each byte was asked for once" is an assertion. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
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
    std::multimap<std::string, std::string> headers;  // names in lower case
    std::string body;
    std::string Header(const std::string& name) const;  // the first of that name
    std::vector<std::string> Values(const std::string& name) const;
    std::optional<ByteRange> range() const;  // of "bytes=a-b"
  };

  // What happens to a request instead of, or beside, the ordinary answer.
  struct Behaviour {
    int times = 1;   // requests that it applies to; -1 = all
    int status = 0;  // 0 = as usual
    std::vector<std::pair<std::string, std::string>> headers;  // replace ordinary ones of that name
    std::optional<std::string> body;                           // instead of the ordinary one
    std::optional<uint64_t> cut_after_bytes;   // the connection ends after so much of the body
    std::optional<uint64_t> hold_after_bytes;  // waits for Release after so much of the body
    bool hold = false;                         // waits for Release before anything is sent
    bool close = false;                        // the connection ends without an answer
    bool cut_head = false;                     // the connection ends within the headers
    bool ignore_range = false;                 // 200 with everything
    bool chunked = false;                      // no Content-Length
    bool corrupt = false;                      // the body's first byte is changed
    // The connection ends after so much of the request's body, of which an upload keeps this much.
    std::optional<uint64_t> cut_request_after_bytes;
    bool read_slowly = false;  // the request's body: a megabyte each 40 ms
    bool slow_head = false;    // a header line each 20 ms, for ever
    bool slow_body = false;    // a byte each 20 ms
  };

  // How it takes what is pushed, and lists what is attached.
  struct Features {
    uint64_t chunk_min_bytes = 0;    // OCI-Chunk-Min-Length
    bool absolute_location = false;  // of uploads; always with a query
    std::string upload_origin;       // where uploads go on, "http://host:port"; "" = here
    bool mounts = true;
    bool referrers = false;     // the API
    bool lists_itself = false;  // OCI-Subject
    bool filters = true;        // by artifactType
    size_t page_size = 100;     // of the list
  };

  struct Auth {
    enum class Kind { kNone, kBasic, kBearer };
    Kind kind = Kind::kNone;
    std::string user, password;  // empty user: the token service serves anonymous users
    std::string identity_token;  // accepted by POST
    std::string realm;           // "" = this server's /token
    int expires_in = 300;
    int refused_status = 401;  // answer to a token that is not valid
    bool check_scope = false;  // a token is good for what its scope names only
  };

  explicit FakeRegistry(const std::string& address = "127.0.0.1");
  ~FakeRegistry();

  std::string host() const { return host_; }  // "127.0.0.1:41234"
  std::string Url(std::string_view path) const;

  Digest AddBlob(const std::string& repository, std::string bytes);
  Digest AddManifest(const std::string& repository, const std::string& tag, std::string bytes,
                     const std::string& content_type);
  // Anything else: 200 with `bytes`.
  void AddFile(const std::string& path, std::string bytes);
  void SetFeatures(Features features);
  // An entry (JSON) of the list of what is attached to `subject`.
  void AddReferrer(const std::string& repository, const Digest& subject, std::string entry);
  // An upload that another server sends its clients to, or one begun before.
  void AddUpload(const std::string& repository, const std::string& id);
  void ForgetUploads();
  size_t uploads() const;  // open ones
  // What was pushed to `path`, nullopt when nothing was.
  std::optional<std::string> Stored(const std::string& path) const;
  // "/v2/<repository>/blobs/uploads/<n>": the n-th upload, from 1.
  static std::string UploadPath(const std::string& repository, int n);
  static std::string BlobPath(const std::string& repository, const Digest& digest);

  void SetAuth(Auth auth);
  void AcceptToken(const std::string& token);
  void RevokeTokens();

  // Appends to the script of `path`; the oldest behaviour with `times` left applies.
  void On(const std::string& path, Behaviour behaviour);
  // Lets the held requests of `path` go on, and those to come until On holds them again.
  void Release(const std::string& path);
  // Waits until `count` requests for `path` have arrived in all. False after 20 s.
  bool WaitForRequests(const std::string& path, size_t count);

  std::vector<Request> requests() const;
  std::vector<Request> RequestsFor(const std::string& path) const;
  // Ranges of GET requests for a blob path; a request without Range counts as [0, size).
  std::vector<ByteRange> RangesAsked(const std::string& path) const;
  // Accepted connections.
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
  // The part in fake_registry_push.cc; nullopt when it is not about that.
  std::optional<Answer> MakePushAnswer(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer BeginUpload(const Request& request, const std::string& repository)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer ContinueUpload(const Request& request, const std::string& repository)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer TakeManifest(const Request& request, const std::string& repository)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer ListReferrers(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string Location(const std::string& path) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void KeepPartOfChunk(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Answer MakeToken(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Authorised(const Request& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
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
  std::map<std::string, std::string> tokens_ ABSL_GUARDED_BY(mu_);  // with their scopes
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
