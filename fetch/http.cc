// SPDX-License-Identifier: Apache-2.0
#include "fetch/http.h"

#include <curl/curl.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/log_context.h"
#include "base/status.h"
#include "base/text.h"
#include "base/thread_role.h"
#include "fetch/address_policy.h"
#include "fetch/guarded_done.h"
#include "fetch/header_reader.h"
#include "fetch/proxy_choice.h"
#include "fetch/url.h"

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kAuthorization = "Authorization: ";
// Fewer system calls per megabyte than with curl's default of 16 KiB.
constexpr long kReceiveBufferBytes = 256 << 10;
constexpr uint64_t kMaxCaBundleBytes = 16 << 20;
// Maximum body of an error response within the time limit.
constexpr uint64_t kMaxErrorBytes = 64 << 10;
// Priorities may be raised while requests wait.
constexpr std::chrono::milliseconds kLookAgain(100);

absl::Status OutOfReach(const absl::Status& status) {
  return MakeTransportFailure(TransportFailure::kOutOfReach, absl::StatusCode::kFailedPrecondition,
                              std::string(status.message()));
}

absl::Status CancelledRequest() { return absl::CancelledError("request cancelled"); }

// One request from Start to Done. Only the client's thread may use it once it has left the inbox.
struct Transfer {
  uint64_t id = 0;
  const LogContext context = LogContext::Current();  // of whoever started it
  HttpRequest request;
  CancelToken cancel;
  CancelToken::Registration registration;
  HttpClient::OnHeaders on_headers;
  HttpClient::Done done;
  Url url;

  CURL* easy = nullptr;
  curl_slist* header_list = nullptr;
  char error_text[CURL_ERROR_SIZE] = {};
  AddressPolicy* policy = nullptr;
  AddressPolicy::Target target;
  ProxySettings::Proxy proxy;
  absl::Status refused;  // by `policy`; another address of the host may be allowed
  std::optional<TransferPhases> phases;
  std::optional<EndpointTraffic::Request> traffic;  // set when it is sent
  HttpResponse response;
  HeaderReader header_reader;
  HttpClient::Sink sink;
  curl_off_t sent_bytes = 0;
  absl::Status failure;  // of a sink, on_headers or a limit; overrides curl's code
  std::atomic<uint64_t>* bytes_received = nullptr;

  std::string SlotKey() const { return StrCat(url.scheme, "://", url.host, ":", url.port); }
  ~Transfer() {
    if (easy != nullptr) curl_easy_cleanup(easy);
    // The list contains curl's copy of the header with the credential.
    for (curl_slist* one = header_list; one != nullptr; one = one->next) {
      if (std::string_view(one->data).starts_with(kAuthorization)) {
        explicit_bzero(one->data, std::strlen(one->data));
      }
    }
    curl_slist_free_all(header_list);
  }
};

struct Timer {
  Clock::time_point due;
  uint64_t sequence = 0;
  absl::AnyInvocable<void()> task;
  LogContext context;
};
// The front of the heap is the earliest.
bool LaterTimer(const Timer& a, const Timer& b) {
  return a.due != b.due ? a.due > b.due : a.sequence > b.sequence;
}

// Work from other threads for the client's thread. Cancel callbacks may outlive the client, so they
// hold the inbox instead of the client.
struct Inbox {
  absl::Mutex mu;
  std::vector<std::unique_ptr<Transfer>> submitted ABSL_GUARDED_BY(mu);
  std::vector<uint64_t> cancelled ABSL_GUARDED_BY(mu);
  std::vector<Timer> timers ABSL_GUARDED_BY(mu);  // a heap
  uint64_t next_sequence ABSL_GUARDED_BY(mu) = 0;
  bool stopping ABSL_GUARDED_BY(mu) = false;
  CURLM* multi ABSL_GUARDED_BY(mu) = nullptr;  // null once destroyed

  void WakeLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    if (multi != nullptr) curl_multi_wakeup(multi);
  }
  void Cancel(uint64_t id) {
    absl::MutexLock lock(&mu);
    if (stopping) return;
    cancelled.push_back(id);
    WakeLocked();
  }
};

FailedTransfer::At Where(CURLcode code) {
  using At = FailedTransfer::At;
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
      return At::kCertificate;
    case CURLE_SSL_CONNECT_ERROR:
      return At::kTls;
    case CURLE_COULDNT_RESOLVE_HOST:
      return At::kHostName;
    case CURLE_COULDNT_RESOLVE_PROXY:
      return At::kProxyName;
    case CURLE_COULDNT_CONNECT:
      return At::kConnecting;
    case CURLE_OPERATION_TIMEDOUT:
      return At::kTimeLimit;
    case CURLE_PROXY:
      return At::kSocks;
    default:
      return At::kElse;
  }
}

absl::Status Explain(const Transfer& t, CURLcode code) {
  long os_error = 0, proxy_status = 0;
  curl_easy_getinfo(t.easy, CURLINFO_OS_ERRNO, &os_error);
  curl_easy_getinfo(t.easy, CURLINFO_HTTP_CONNECTCODE, &proxy_status);
  return ExplainFailure(
      {Where(code), t.error_text[0] != 0 ? t.error_text : curl_easy_strerror(code),
       static_cast<int>(os_error), t.url, t.proxy, static_cast<int>(proxy_status)});
}

// Returns the maximum size of a body buffered in memory; nullopt for a blob, which is not buffered.
std::optional<uint64_t> CollectedBytes(const Transfer& t) {
  uint64_t most = t.request.max_body_bytes;
  if (t.sink) {
    const bool wanted = t.response.status >= 200 && t.response.status < 300;
    if (wanted && !t.request.sink_collects) return std::nullopt;
    most = wanted ? *t.request.sink_collects : kMaxErrorBytes;
  }
  return std::min(most, ParseDecimal(t.response.Header("content-length")).value_or(most));
}

// Handles one header line. An error ends the transfer. Trailers are ignored.
absl::Status ParseHeaderLine(Transfer& t, std::string_view line) {
  if (t.header_reader.done()) return absl::OkStatus();
  absl::Status status = t.header_reader.Take(line, t.response);
  if (!status.ok()) return Annotate(status, t.url.HostPort());
  if (!t.header_reader.done()) return absl::OkStatus();
  t.traffic->Headers(Clock::now());
  if (t.on_headers) {
    const LogContext::Scope scope(t.context);
    IMAGEFS_ASSIGN_OR_RETURN(t.sink, t.on_headers(t.response));
  }
  t.phases->HeadersDone(CollectedBytes(t), Clock::now());
  return absl::OkStatus();
}

size_t OnHeaderLine(char* data, size_t size, size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  t.phases->HeaderBytes(Clock::now());
  t.failure = ParseHeaderLine(t, std::string_view(data, size * count));
  return t.failure.ok() ? size * count : 0;
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  const std::string_view bytes(data, size * count);
  t.phases->BodyBytes(bytes.size(), Clock::now());
  t.bytes_received->fetch_add(bytes.size(), std::memory_order_relaxed);
  t.traffic->Bytes(bytes.size());
  if (t.sink) {
    t.failure = t.sink(bytes);
  } else if (bytes.size() > t.request.max_body_bytes - t.response.body.size()) {
    t.failure = absl::ResourceExhaustedError(StrCat("the answer of ", t.url.HostPort(),
                                                    " is larger than the allowed ",
                                                    t.request.max_body_bytes, " bytes"));
  } else {
    t.response.body.append(bytes);
  }
  return t.failure.ok() ? bytes.size() : static_cast<size_t>(CURL_WRITEFUNC_ERROR);
}

// Sent bytes count as activity, like received ones.
int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t sent) {
  Transfer& t = *static_cast<Transfer*>(user);
  if (sent != t.sent_bytes) t.phases->BytesLeft(Clock::now());
  t.sent_bytes = sent;
  return 0;
}

// Whether `address` may be used; a proxy's address is not checked.
bool MayUse(Transfer& t, const std::optional<IpAddress>& address) {
  if (!t.proxy.none()) return true;
  absl::Status status = address ? t.policy->Check(t.target, *address, Clock::now())
                                : absl::FailedPreconditionError(StrCat(
                                      t.target.host, " is at an address of an unknown kind"));
  if (status.ok()) return true;
  t.refused = std::move(status);
  return false;
}

curl_socket_t OnOpenSocket(void* user, curlsocktype, struct curl_sockaddr* address) {
  Transfer& t = *static_cast<Transfer*>(user);
  if (!MayUse(t, IpAddress::Of(&address->addr))) return CURL_SOCKET_BAD;
  return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

// Called when the connection is ready, new or reused from another registry's requests.
int OnConnected(void* user, char* address, char*, int, int) {
  Transfer& t = *static_cast<Transfer*>(user);
  const std::optional<IpAddress> parsed = IpAddress::Parse(address);
  if (!MayUse(t, parsed)) return CURL_PREREQFUNC_ABORT;
  if (t.proxy.none()) t.policy->Sent(t.target, *parsed, Clock::now());
  t.phases->Connected(Clock::now());
  return CURL_PREREQFUNC_OK;
}

// Returns the host name in "host[:port]", in Url's format.
std::string HostName(const std::string& registry, const Url& url) {
  if (registry.empty()) return url.host;
  const absl::StatusOr<Url> parsed = Url::Parse(StrCat(url.scheme, "://", registry));
  return parsed.ok() ? parsed->host : registry;
}

std::string EnvironmentOr(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  if (value != nullptr && *value != 0) return value;
  return fallback == nullptr ? "" : fallback;
}

}  // namespace

class HttpClient::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)),
        inbox_(std::make_shared<Inbox>()),
        shares_(options_.shares),
        address_policy_(options_.allow) {}

  ~Impl() {
    {
      absl::MutexLock lock(&inbox_->mu);
      inbox_->stopping = true;
      inbox_->WakeLocked();
    }
    if (thread_.joinable()) thread_.join();
    {
      absl::MutexLock lock(&inbox_->mu);
      inbox_->multi = nullptr;
    }
    if (multi_ != nullptr) curl_multi_cleanup(multi_);
    if (initialised_) curl_global_cleanup();
  }

  absl::Status Open() {
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
      return absl::InternalError("libcurl cannot be initialised");
    }
    initialised_ = true;
    IMAGEFS_RETURN_IF_ERROR(LoadCertificates());
    multi_ = curl_multi_init();
    if (multi_ == nullptr) return absl::ResourceExhaustedError("libcurl: out of memory");
    curl_multi_setopt(multi_, CURLMOPT_PIPELINING, CURLPIPE_MULTIPLEX);
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(options_.shares.total));
    {
      absl::MutexLock lock(&inbox_->mu);
      inbox_->multi = multi_;
    }
    thread_ = std::thread([this] {
      EnterThread(ThreadRole::kNetwork);
      Run();
    });
    return absl::OkStatus();
  }

  void Start(HttpRequest request, CancelToken cancel, OnHeaders on_headers, Done done) {
    absl::StatusOr<Url> url = Url::Parse(request.url);
    if (!url.ok()) return After({}, FailLater(std::move(done), url.status()));
    auto transfer = std::make_unique<Transfer>();
    transfer->id = next_id_.fetch_add(1, std::memory_order_relaxed);
    transfer->request = std::move(request);
    transfer->url = *std::move(url);
    transfer->cancel = std::move(cancel);
    transfer->on_headers = std::move(on_headers);
    transfer->done = std::move(done);
    transfer->bytes_received = &bytes_received_;
    transfer->policy = &address_policy_;
    transfer->target = {HostName(transfer->request.registry, transfer->url), transfer->url.host};
    transfer->registration =
        transfer->cancel.OnCancel([inbox = inbox_, id = transfer->id] { inbox->Cancel(id); });
    {
      absl::MutexLock lock(&inbox_->mu);
      if (!inbox_->stopping) {
        inbox_->submitted.push_back(std::move(transfer));
        inbox_->WakeLocked();
        return;
      }
    }
    transfer->done(CancelledRequest());
  }

  void After(std::chrono::milliseconds delay, absl::AnyInvocable<void()> task) {
    LogContext context = LogContext::Current();
    absl::MutexLock lock(&inbox_->mu);
    if (inbox_->stopping) {
      // `task` is destroyed by the caller, after the lock is released.
      return;
    }
    inbox_->timers.push_back(
        {Clock::now() + delay, inbox_->next_sequence++, std::move(task), std::move(context)});
    std::push_heap(inbox_->timers.begin(), inbox_->timers.end(), LaterTimer);
    inbox_->WakeLocked();
  }

  Counters counters() const {
    return {requests_.load(std::memory_order_relaxed), connections_.load(std::memory_order_relaxed),
            bytes_received_.load(std::memory_order_relaxed)};
  }
  std::vector<EndpointTraffic::Row> traffic() const { return traffic_.Rows(); }

 private:
  static absl::AnyInvocable<void()> FailLater(Done done, absl::Status status) {
    return [done = GuardedDone<absl::StatusOr<HttpResponse>>(std::move(done)),
            status = std::move(status)]() mutable { done(status); };
  }

  // Loads the system's CAs and those of the caller's file, if any.
  absl::Status LoadCertificates() {
    const curl_version_info_data* info = curl_version_info(CURLVERSION_NOW);
    ca_bundle_ = EnvironmentOr("SSL_CERT_FILE", info->cainfo);
    ca_folder_ = EnvironmentOr("SSL_CERT_DIR", info->capath);
    // Without it, libcurl reads the file itself for each connection.
    system_bundle_ = ReadFile(ca_bundle_, kMaxCaBundleBytes).value_or("");
    if (options_.ca_file.empty()) return absl::OkStatus();
    absl::StatusOr<std::string> own = ReadFile(options_.ca_file, kMaxCaBundleBytes);
    if (!own.ok()) return Annotate(own.status(), "CA file");
    if (own->find("-----BEGIN") == std::string::npos) {
      return absl::InvalidArgumentError(
          StrCat("CA file ", options_.ca_file, " holds no PEM certificate"));
    }
    ca_blob_ = system_bundle_.empty() ? *std::move(own) : StrCat(system_bundle_, "\n", *own);
    return absl::OkStatus();
  }

  void Run() {
    while (Absorb()) {
      int running = 0;
      curl_multi_perform(multi_, &running);
      Reap();
      const Clock::time_point next = CheckPhases();
      Wait(std::min(next, ShareConnections()));
    }
    Drain();
  }

  // Processes work from other threads and due timers. Returns false if the client must stop.
  bool Absorb() {
    std::vector<uint64_t> cancelled;
    std::vector<std::unique_ptr<Transfer>> submitted;
    std::vector<Timer> due;
    {
      absl::MutexLock lock(&inbox_->mu);
      if (inbox_->stopping) return false;
      cancelled.swap(inbox_->cancelled);
      submitted.swap(inbox_->submitted);
      const Clock::time_point now = Clock::now();
      while (!inbox_->timers.empty() && inbox_->timers.front().due <= now) {
        std::pop_heap(inbox_->timers.begin(), inbox_->timers.end(), LaterTimer);
        due.push_back(std::move(inbox_->timers.back()));
        inbox_->timers.pop_back();
      }
    }
    for (auto& transfer : submitted) {
      // The cancellation may have been processed before the request.
      if (transfer->cancel.cancelled()) {
        Complete(std::move(transfer), CancelledRequest());
      } else {
        Enqueue(std::move(transfer));
      }
    }
    for (const uint64_t id : cancelled) CancelTransfer(id);
    for (Timer& timer : due) {
      const LogContext::Scope scope(timer.context);
      timer.task();
      timer.task = nullptr;
    }
    return true;
  }

  void Enqueue(std::unique_ptr<Transfer> transfer) {
    const HttpRequest& request = transfer->request;
    ConnectionShares::Claim claim;
    claim.host = transfer->SlotKey();
    claim.registry = request.registry.empty() ? transfer->url.HostPort() : request.registry;
    claim.repository = request.repository;
    claim.priority = request.priority;
    const bool reads = request.method == "GET" || request.method == "HEAD";
    claim.cut = reads ? request.cut : ConnectionShares::Cut::kNever;
    claim.hedge = request.hedge;
    const uint64_t id = transfer->id;
    shares_.Add(id, std::move(claim));
    waiting_[id] = std::move(transfer);
    look_again_ = {};
  }

  void CancelTransfer(uint64_t id) {
    if (waiting_.contains(id)) {
      Complete(TakeWaiting(id), CancelledRequest());
      shares_.Remove(id);
    } else if (active_.contains(id)) {
      Complete(Detach(id), CancelledRequest());
    }
  }

  std::unique_ptr<Transfer> TakeWaiting(uint64_t id) {
    const auto it = waiting_.find(id);
    std::unique_ptr<Transfer> transfer = std::move(it->second);
    waiting_.erase(it);
    return transfer;
  }

  // Starts and cuts requests as the shares decide; returns when to ask them again.
  Clock::time_point ShareConnections() {
    const Clock::time_point now = Clock::now();
    if (now < look_again_) return look_again_;
    while (true) {
      const ConnectionShares::Step step = shares_.Next(now);
      if (step.kind == ConnectionShares::Step::Kind::kStart) {
        Launch(TakeWaiting(step.id));
      } else if (step.kind == ConnectionShares::Step::Kind::kCut) {
        std::unique_ptr<Transfer> transfer = Detach(step.id);
        LogDebug("http_gave_way host=", transfer->url.HostPort(),
                 " registry=", transfer->request.registry);
        absl::Status status = MakeTransportFailure(
            TransportFailure::kGaveWay, absl::StatusCode::kUnavailable,
            StrCat("the connection to ", transfer->url.HostPort(), " gave way to others"));
        Complete(std::move(transfer), std::move(status));
      } else {
        look_again_ = waiting_.empty() ? Clock::time_point::max()
                                       : std::min(step.look_again, now + kLookAgain);
        return look_again_;
      }
    }
  }

  void Launch(std::unique_ptr<Transfer> transfer) {
    Transfer& t = *transfer;
    const uint64_t id = t.id;
    absl::Status status = Prepare(t);
    if (!status.ok()) {
      shares_.Remove(id);
      return Complete(std::move(transfer), std::move(status));
    }
    t.response.url = t.url.text;
    if (!t.proxy.none()) t.response.proxy = t.proxy.Name();
    requests_.fetch_add(1, std::memory_order_relaxed);
    t.traffic.emplace(traffic_.Send(t.url.HostPort(), t.request.kind, Clock::now()));
    active_[id] = std::move(transfer);
    if (curl_multi_add_handle(multi_, t.easy) != CURLM_OK) {
      Complete(Detach(id), absl::InternalError("libcurl refuses the request"));
    }
  }

  absl::Status Prepare(Transfer& t) {
    t.proxy = (t.request.proxies ? *t.request.proxies : proxies_).For(t.url);
    if (!t.proxy.none()) {
      if (const absl::Status status = address_policy_.CheckName(t.target); !status.ok()) {
        return OutOfReach(status);
      }
    }
    t.easy = curl_easy_init();
    if (t.easy == nullptr) return absl::ResourceExhaustedError("libcurl: out of memory");
    Configure(t);
    // curl enforces the connect timeout itself, with a better message.
    t.phases.emplace(options_.phases, t.request.connect_timeout + std::chrono::seconds(1),
                     t.request.stall_timeout, Clock::now());
    return absl::OkStatus();
  }

  void Configure(Transfer& t) {
    CURL* easy = t.easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, &t);
    curl_easy_setopt(easy, CURLOPT_URL, t.url.text.c_str());
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    // Removing a handle must not block this thread on name resolution.
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, options_.user_agent.c_str());
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t.error_text);
    // Buffered responses use curl's default size: a small buffer is wiped when freed.
    if (t.on_headers) curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    if (t.request.own_connection) curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(t.request.connect_timeout.count()));
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    // The proxy has already been chosen; "" is none.
    curl_easy_setopt(easy, CURLOPT_PROXY, t.proxy.url.c_str());
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "");
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, &OnOpenSocket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, &t);
    curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, &OnConnected);
    curl_easy_setopt(easy, CURLOPT_PREREQDATA, &t);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &OnHeaderLine);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBody);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &t);
    if (t.url.scheme == "https") ConfigureTls(t);
    ConfigureMethod(t);
    // Blob offsets count the stored bytes, so the server must not encode them.
    t.header_list = curl_slist_append(t.header_list, "Accept-Encoding: identity");
    t.header_list = curl_slist_append(t.header_list, "Expect:");
    for (const auto& [name, value] : t.request.headers) {
      t.header_list = curl_slist_append(t.header_list, StrCat(name, ": ", value).c_str());
    }
    if (!t.request.authorization.empty()) {
      const Secret line = Secret::Concat({kAuthorization, t.request.authorization.view()});
      t.header_list = curl_slist_append(t.header_list, line.c_str());
    }
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, t.header_list);
  }

  void ConfigureTls(Transfer& t) {
    CURL* easy = t.easy;
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2TLS);
    // Prefer one connection with many streams to many handshakes.
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, t.request.own_connection ? 0L : 1L);
    const TlsSettings* const tls = t.request.tls.get();
    const bool verify = tls == nullptr || tls->verify;
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, verify ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, verify ? 2L : 0L);
    if (tls != nullptr && !tls->clients.empty()) Identify(easy, tls->clients.front());
    if (!verify) return;
    if (!ca_folder_.empty()) curl_easy_setopt(easy, CURLOPT_CAPATH, ca_folder_.c_str());
    if (tls != nullptr && !tls->ca_pem.empty()) {
      SetBlob(easy, CURLOPT_CAINFO_BLOB, BundleWith(tls->ca_pem));
    } else if (!ca_blob_.empty()) {
      SetBlob(easy, CURLOPT_CAINFO_BLOB, ca_blob_);
    } else if (!ca_bundle_.empty()) {
      curl_easy_setopt(easy, CURLOPT_CAINFO, ca_bundle_.c_str());
    }
  }

  static void SetBlob(CURL* easy, CURLoption option, std::string_view bytes) {
    curl_blob blob = {const_cast<char*>(bytes.data()), bytes.size(), CURL_BLOB_NOCOPY};
    curl_easy_setopt(easy, option, &blob);
  }

  // The transfer keeps the settings, and so the bytes.
  static void Identify(CURL* easy, const TlsSettings::Client& client) {
    SetBlob(easy, CURLOPT_SSLCERT_BLOB, client.certificate_pem);
    SetBlob(
        easy, CURLOPT_SSLKEY_BLOB,
        client.key_pem.empty() ? std::string_view(client.certificate_pem) : client.key_pem.view());
  }

  // The CAs of all hosts and `own`. Entries are never replaced: curl refers to them.
  const std::string& BundleWith(const std::string& own) {
    std::unique_ptr<std::string>& bundle = bundles_[own];
    if (bundle == nullptr) {
      bundle = std::make_unique<std::string>(
          StrCat(ca_blob_.empty() ? system_bundle_ : ca_blob_, "\n", own));
    }
    return *bundle;
  }

  static void ConfigureMethod(Transfer& t) {
    const HttpRequest& request = t.request;
    if (request.method == "HEAD") {
      curl_easy_setopt(t.easy, CURLOPT_NOBODY, 1L);
      return;
    }
    if (request.method == "GET") return;
    curl_easy_setopt(t.easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(t.easy, CURLOPT_XFERINFOFUNCTION, &OnProgress);
    curl_easy_setopt(t.easy, CURLOPT_XFERINFODATA, &t);
    const std::string_view body =
        request.secret_body.empty() ? std::string_view(request.body) : request.secret_body.view();
    curl_easy_setopt(t.easy, CURLOPT_POSTFIELDS, body.data());
    curl_easy_setopt(t.easy, CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(t.easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }

  // Removes an active transfer from curl and releases its slot.
  std::unique_ptr<Transfer> Detach(uint64_t id) {
    const auto it = active_.find(id);
    std::unique_ptr<Transfer> transfer = std::move(it->second);
    active_.erase(it);
    curl_multi_remove_handle(multi_, transfer->easy);
    long connects = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_NUM_CONNECTS, &connects);
    connections_.fetch_add(connects, std::memory_order_relaxed);
    shares_.Remove(id);
    look_again_ = {};
    return transfer;
  }

  static void LogResult(const Transfer& t, const absl::StatusOr<HttpResponse>& result) {
    if (!LogEnabled(LogLevel::kDebug)) return;
    const HttpRequest& request = t.request;
    std::string range;
    for (const auto& [name, value] : request.headers) {
      if (name == "Range") range = StrCat(" range=", value.substr(value.find('=') + 1));
    }
    curl_off_t total_us = 0, first_us = 0, bytes = 0;
    if (t.easy != nullptr) {
      curl_easy_getinfo(t.easy, CURLINFO_TOTAL_TIME_T, &total_us);
      curl_easy_getinfo(t.easy, CURLINFO_STARTTRANSFER_TIME_T, &first_us);
      curl_easy_getinfo(t.easy, CURLINFO_SIZE_DOWNLOAD_T, &bytes);
    }
    const Priority priority =
        request.priority == nullptr ? Priority::kForeground : request.priority->get();
    LogDebug("http.response method=", request.method, " url=", RedactUrl(request.url), range,
             " status=", t.response.status, " bytes=", bytes, " first_byte_ms=", first_us / 1000,
             " total_ms=", total_us / 1000, " priority=", PriorityName(priority),
             " cause=", result.ok() ? "-" : ToStd(result.status().message()));
  }

  // Runs Done after everything but the result has been destroyed.
  static void Complete(std::unique_ptr<Transfer> transfer, absl::StatusOr<HttpResponse> result) {
    const LogContext::Scope scope(transfer->context);
    LogResult(*transfer, result);
    Done done = std::move(transfer->done);
    transfer.reset();
    done(std::move(result));
  }

  void Reap() {
    int left = 0;
    while (CURLMsg* message = curl_multi_info_read(multi_, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      const CURLcode code = message->data.result;
      char* data = nullptr;
      curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &data);
      Transfer& t = *reinterpret_cast<Transfer*>(data);
      absl::StatusOr<HttpResponse> result = absl::StatusOr<HttpResponse>(HttpResponse());
      if (!t.failure.ok()) {
        result = t.failure;
      } else if (code != CURLE_OK && !t.refused.ok()) {
        result = OutOfReach(t.refused);
      } else if (code != CURLE_OK) {
        result = Explain(t, code);
      } else if (!t.header_reader.done()) {
        // curl considers this a response without a body.
        result = ExplainFailure({.cause = "it ended in the middle of the headers",
                                 .url = t.url,
                                 .proxy = t.proxy,
                                 .proxy_status = t.proxy.none() ? 0 : 200});
      } else if (t.response.status == 407 && !t.proxy.none()) {
        result = ProxyWantsCredentials(t.proxy);
      } else {
        result = std::move(t.response);
      }
      t.traffic->End(result.ok() ? EndpointTraffic::Request::Of(result->status)
                                 : EndpointTraffic::Result::kFailed);
      Complete(Detach(t.id), std::move(result));
    }
  }

  // Ends transfers that have exceeded the time limit of their phase; returns when to check again.
  Clock::time_point CheckPhases() {
    using Kind = TransferPhases::Verdict::Kind;
    const Clock::time_point now = Clock::now();
    Clock::time_point next = Clock::time_point::max();
    std::vector<std::pair<uint64_t, TransferPhases::Verdict>> over;
    for (const auto& [id, transfer] : active_) {
      const bool was_slow = transfer->phases->slow();
      TransferPhases::Verdict verdict = transfer->phases->Check(now);
      if (shares_.waiting() > 0) shares_.SetSilent(id, transfer->phases->Silent(now));
      if (const bool slow = transfer->phases->slow(); slow != was_slow) {
        shares_.SetSlow(id, slow);
        look_again_ = {};
      }
      if (verdict.kind == Kind::kGoesOn) {
        next = std::min(next, verdict.look_again);
      } else {
        over.emplace_back(id, std::move(verdict));
      }
    }
    for (auto& [id, verdict] : over) {
      std::unique_ptr<Transfer> transfer = Detach(id);
      transfer->traffic->End(EndpointTraffic::Result::kFailed);
      absl::Status status = MakeTransportFailure(
          verdict.kind == Kind::kSilent ? TransportFailure::kStalled : TransportFailure::kTooSlow,
          absl::StatusCode::kUnavailable,
          StrCat(transfer->url.HostPort(), " ", verdict.what,
                 transfer->proxy.none() ? "" : StrCat(" (through ", transfer->proxy.Name(), ")"),
                 "; check the network and the registry"));
      Complete(std::move(transfer), std::move(status));
    }
    return next;
  }

  void Wait(Clock::time_point next) {
    {
      absl::MutexLock lock(&inbox_->mu);
      if (inbox_->stopping || !inbox_->submitted.empty() || !inbox_->cancelled.empty()) return;
      if (!inbox_->timers.empty()) next = std::min(next, inbox_->timers.front().due);
    }
    std::chrono::milliseconds timeout(60'000);
    if (next != Clock::time_point::max()) {
      const auto until = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now());
      timeout = std::clamp(until, std::chrono::milliseconds(0), timeout);
    }
    curl_multi_poll(multi_, nullptr, 0, static_cast<int>(timeout.count()), nullptr);
  }

  // Completes everything. Nothing new arrives: the inbox rejects it while stopping.
  void Drain() {
    while (!active_.empty()) Complete(Detach(active_.begin()->first), CancelledRequest());
    std::vector<std::unique_ptr<Transfer>> rest;
    for (auto& [id, transfer] : waiting_) rest.push_back(std::move(transfer));
    waiting_.clear();
    std::vector<Timer> timers;
    {
      absl::MutexLock lock(&inbox_->mu);
      for (auto& transfer : inbox_->submitted) rest.push_back(std::move(transfer));
      inbox_->submitted.clear();
      timers.swap(inbox_->timers);
    }
    for (auto& transfer : rest) Complete(std::move(transfer), CancelledRequest());
  }

  const Options options_;
  const ProxySettings proxies_ = ProxySettings::FromEnvironment();
  const std::shared_ptr<Inbox> inbox_;
  bool initialised_ = false;
  // The system's CAs: file, directory, and the file's contents; `ca_blob_` adds the caller's.
  std::string ca_bundle_, ca_folder_, system_bundle_, ca_blob_;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<uint64_t> requests_{0}, connections_{0}, bytes_received_{0};
  EndpointTraffic traffic_;

  // Client's thread only.
  CURLM* multi_ = nullptr;
  absl::flat_hash_map<uint64_t, std::unique_ptr<Transfer>> waiting_, active_;
  ConnectionShares shares_;
  AddressPolicy address_policy_;
  Clock::time_point look_again_;                                            // when to ask shares_
  absl::flat_hash_map<std::string, std::unique_ptr<std::string>> bundles_;  // by a host's own CAs

  std::thread thread_;
};

absl::StatusOr<std::unique_ptr<HttpClient>> HttpClient::Create(Options options) {
  auto impl = std::make_unique<Impl>(std::move(options));
  IMAGEFS_RETURN_IF_ERROR(impl->Open());
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(impl)));
}

HttpClient::HttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpClient::~HttpClient() = default;

void HttpClient::Start(HttpRequest request, CancelToken cancel, OnHeaders on_headers, Done done) {
  impl_->Start(std::move(request), std::move(cancel), std::move(on_headers), std::move(done));
}

void HttpClient::After(std::chrono::milliseconds delay, absl::AnyInvocable<void()> task) {
  impl_->After(delay, std::move(task));
}

HttpClient::Counters HttpClient::counters() const { return impl_->counters(); }

std::vector<EndpointTraffic::Row> HttpClient::traffic() const { return impl_->traffic(); }

}  // namespace imagefs
