#include "fetch/http.h"

#include <curl/curl.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/status.h"
#include "base/text.h"
#include "fetch/guarded_done.h"
#include "fetch/url.h"

namespace imagefs {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kAuthorization = "Authorization: ";
constexpr char kFailurePayload[] = "imagefs/transport-failure";
// Fewer system calls a megabyte than curl's default of 16 KiB.
constexpr long kReceiveBufferBytes = 256 << 10;
constexpr size_t kMaxHeaders = 256;
constexpr size_t kMaxHeaderBytes = 64 << 10;
constexpr uint64_t kMaxCaBundleBytes = 16 << 20;

absl::Status MakeFailure(TransportFailure kind, absl::StatusCode code, const std::string& message) {
  absl::Status status(code, message);
  status.SetPayload(kFailurePayload, absl::Cord(StrCat(static_cast<int>(kind))));
  return status;
}

absl::Status CancelledRequest() { return absl::CancelledError("request cancelled"); }

// One request from Start to Done. Touched by the client's thread only once it left the inbox.
struct Transfer {
  uint64_t id = 0;
  HttpRequest request;
  CancelToken cancel;
  CancelToken::Registration registration;
  HttpClient::OnHeaders on_headers;
  HttpClient::Done done;
  Url url;

  CURL* easy = nullptr;
  curl_slist* header_list = nullptr;
  char error_text[CURL_ERROR_SIZE] = {};
  Clock::time_point silent_since;  // of the last byte; while connecting, the end of that time
  HttpResponse response;
  HttpClient::Sink sink;
  curl_off_t sent_bytes = 0;
  size_t header_bytes = 0;
  bool headers_done = false;
  absl::Status failure;  // of a sink, of on_headers or of a limit; wins over curl's own code
  std::atomic<uint64_t>* bytes_received = nullptr;

  ~Transfer() {
    if (easy != nullptr) curl_easy_cleanup(easy);
    // Curl copied the header with the credential into the list.
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
};
// The heap's front is the earliest.
bool LaterTimer(const Timer& a, const Timer& b) {
  return a.due != b.due ? a.due > b.due : a.sequence > b.sequence;
}

// What other threads leave for the client's thread. Cancel callbacks may outlive the client, so
// they hold the inbox and not the client.
struct Inbox {
  absl::Mutex mu;
  std::vector<std::unique_ptr<Transfer>> submitted ABSL_GUARDED_BY(mu);
  std::vector<uint64_t> cancelled ABSL_GUARDED_BY(mu);
  std::vector<Timer> timers ABSL_GUARDED_BY(mu);  // a heap
  uint64_t next_sequence ABSL_GUARDED_BY(mu) = 0;
  bool stopping ABSL_GUARDED_BY(mu) = false;
  CURLM* multi ABSL_GUARDED_BY(mu) = nullptr;  // null after its destruction

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

bool IsTlsFailure(CURLcode code) {
  switch (code) {
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
      return true;
    default:
      return false;
  }
}

// The status of a transport failure: the host, the cause, the remedy.
absl::Status ExplainTls(const Transfer& t, CURLcode code, std::string_view cause) {
  const std::string host = t.url.HostPort();
  if (code == CURLE_SSL_CONNECT_ERROR) {
    if ((cause.find("wrong version number") != std::string_view::npos) ||
        (cause.find("packet length too long") != std::string_view::npos) ||
        (cause.find("unexpected message") != std::string_view::npos)) {
      return MakeFailure(TransportFailure::kNotTls, absl::StatusCode::kFailedPrecondition,
                         StrCat(host, " does not speak TLS (", cause,
                                "); use --plain-http if it is a plain HTTP registry"));
    }
    return MakeFailure(TransportFailure::kCut, absl::StatusCode::kUnavailable,
                       StrCat("TLS handshake with ", host, " failed: ", cause,
                              "; check the network and the proxy settings"));
  }
  return MakeFailure(TransportFailure::kUntrusted, absl::StatusCode::kFailedPrecondition,
                     StrCat("the TLS certificate of ", host, " is not trusted: ", cause,
                            "; add its CA to the system's, or name it by SSL_CERT_FILE"));
}

absl::Status ExplainConnect(const Transfer& t, std::string_view cause) {
  const std::string host = t.url.HostPort();
  long os_error = 0;
  curl_easy_getinfo(t.easy, CURLINFO_OS_ERRNO, &os_error);
  if (os_error == ECONNREFUSED) {
    return MakeFailure(TransportFailure::kRefused, absl::StatusCode::kUnavailable,
                       StrCat("cannot connect to ", host,
                              ": connection refused; check that the registry runs there and "
                              "that the port is right"));
  }
  return MakeFailure(
      TransportFailure::kUnreachable, absl::StatusCode::kUnavailable,
      StrCat("cannot connect to ", host, ": ",
             os_error != 0 ? std::string_view(std::strerror(static_cast<int>(os_error))) : cause,
             "; check the network and the firewall"));
}

absl::Status Explain(const Transfer& t, CURLcode code) {
  const std::string host = t.url.HostPort();
  const std::string cause = t.error_text[0] != 0 ? t.error_text : curl_easy_strerror(code);
  if (IsTlsFailure(code) || code == CURLE_SSL_CONNECT_ERROR) return ExplainTls(t, code, cause);
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      return MakeFailure(TransportFailure::kUnknownHost, absl::StatusCode::kUnavailable,
                         StrCat("cannot find host ", t.url.host,
                                ": the name is unknown; check its spelling, DNS and the "
                                "network"));
    case CURLE_COULDNT_RESOLVE_PROXY:
      return MakeFailure(TransportFailure::kUnknownHost, absl::StatusCode::kUnavailable,
                         StrCat("cannot find the proxy for ", host,
                                "; check HTTPS_PROXY, HTTP_PROXY and NO_PROXY"));
    case CURLE_COULDNT_CONNECT:
      return ExplainConnect(t, cause);
    case CURLE_OPERATION_TIMEDOUT:
      if (cause.starts_with("Resolving")) {
        return MakeFailure(TransportFailure::kUnknownHost, absl::StatusCode::kUnavailable,
                           StrCat("cannot find host ", t.url.host,
                                  ": the name servers do not answer; check DNS and the network"));
      }
      return MakeFailure(
          TransportFailure::kUnreachable, absl::StatusCode::kUnavailable,
          StrCat("cannot connect to ", host, ": ", cause, "; check the network and the firewall"));
    default:
      return MakeFailure(TransportFailure::kCut, absl::StatusCode::kUnavailable,
                         StrCat("the connection to ", host, " was cut: ", cause,
                                "; check the network and the registry"));
  }
}

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(kBlank) - begin + 1);
}

// Takes one header line. An error ends the transfer.
absl::Status TakeHeaderLine(Transfer& t, std::string_view line) {
  if (t.headers_done) return absl::OkStatus();  // trailers carry nothing that is wanted here
  if (line.starts_with("HTTP/")) {
    t.response.headers.clear();
    t.response.status = 0;
    const size_t space = line.find(' ');
    const std::optional<uint64_t> status =
        ParseDecimal(space == std::string_view::npos ? "" : line.substr(space + 1, 3));
    if (!status) return absl::UnavailableError(StrCat(t.url.HostPort(), " sent no HTTP status"));
    t.response.status = static_cast<int>(*status);
    return absl::OkStatus();
  }
  t.header_bytes += line.size();
  line = Trim(line);
  if (line.empty()) {
    if (t.response.status < 200) return absl::OkStatus();  // an interim answer
    t.headers_done = true;
    if (!t.on_headers) return absl::OkStatus();
    absl::StatusOr<HttpClient::Sink> sink = t.on_headers(t.response);
    if (!sink.ok()) return sink.status();
    t.sink = *std::move(sink);
    return absl::OkStatus();
  }
  if (t.response.headers.size() >= kMaxHeaders || t.header_bytes > kMaxHeaderBytes) {
    return absl::ResourceExhaustedError(
        StrCat(t.url.HostPort(), " sent more headers than are acceptable"));
  }
  const size_t colon = line.find(':');
  if (colon == std::string_view::npos) return absl::OkStatus();
  t.response.headers.emplace(ToLower(Trim(line.substr(0, colon))), Trim(line.substr(colon + 1)));
  return absl::OkStatus();
}

size_t OnHeaderLine(char* data, size_t size, size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  t.silent_since = Clock::now();
  t.failure = TakeHeaderLine(t, std::string_view(data, size * count));
  return t.failure.ok() ? size * count : 0;
}

size_t OnBody(char* data, size_t size, size_t count, void* user) {
  Transfer& t = *static_cast<Transfer*>(user);
  const std::string_view bytes(data, size * count);
  t.silent_since = Clock::now();
  t.bytes_received->fetch_add(bytes.size(), std::memory_order_relaxed);
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

// Bytes that leave are a sign of life as well as those that arrive.
int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t sent) {
  Transfer& t = *static_cast<Transfer*>(user);
  if (sent != t.sent_bytes) t.silent_since = Clock::now();
  t.sent_bytes = sent;
  return 0;
}

std::string EnvironmentOr(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  if (value != nullptr && *value != 0) return value;
  return fallback == nullptr ? "" : fallback;
}

}  // namespace

TransportFailure TransportFailureOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFailurePayload);
  if (!payload) return TransportFailure::kNone;
  const std::optional<uint64_t> kind = ParseDecimal(std::string(*payload));
  return kind ? static_cast<TransportFailure>(*kind) : TransportFailure::kNone;
}

std::string HttpResponse::Header(std::string_view name) const {
  const auto it = headers.find(std::string(name));
  return it == headers.end() ? "" : it->second;
}

class HttpClient::Impl {
 public:
  explicit Impl(Options options)
      : options_(std::move(options)), inbox_(std::make_shared<Inbox>()) {}

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
    curl_multi_setopt(multi_, CURLMOPT_MAXCONNECTS, static_cast<long>(options_.max_connections));
    {
      absl::MutexLock lock(&inbox_->mu);
      inbox_->multi = multi_;
    }
    thread_ = std::thread([this] { Run(); });
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
    absl::MutexLock lock(&inbox_->mu);
    if (inbox_->stopping) {
      // Destroyed by the caller's frame, after the lock was given back.
      return;
    }
    inbox_->timers.push_back({Clock::now() + delay, inbox_->next_sequence++, std::move(task)});
    std::push_heap(inbox_->timers.begin(), inbox_->timers.end(), LaterTimer);
    inbox_->WakeLocked();
  }

  Counters counters() const {
    return {requests_.load(std::memory_order_relaxed), connections_.load(std::memory_order_relaxed),
            bytes_received_.load(std::memory_order_relaxed)};
  }

 private:
  static absl::AnyInvocable<void()> FailLater(Done done, absl::Status status) {
    return [done = GuardedDone<absl::StatusOr<HttpResponse>>(std::move(done)),
            status = std::move(status)]() mutable { done(status); };
  }

  // The system's CAs and, where given, those of the caller's file.
  absl::Status LoadCertificates() {
    const curl_version_info_data* info = curl_version_info(CURLVERSION_NOW);
    ca_bundle_ = EnvironmentOr("SSL_CERT_FILE", info->cainfo);
    ca_folder_ = EnvironmentOr("SSL_CERT_DIR", info->capath);
    if (options_.ca_file.empty()) return absl::OkStatus();
    absl::StatusOr<std::string> own = ReadFile(options_.ca_file, kMaxCaBundleBytes);
    if (!own.ok()) return Annotate(own.status(), "CA file");
    if (own->find("-----BEGIN") == std::string::npos) {
      return absl::InvalidArgumentError(
          StrCat("CA file ", options_.ca_file, " holds no PEM certificate"));
    }
    absl::StatusOr<std::string> system = ReadFile(ca_bundle_, kMaxCaBundleBytes);
    ca_blob_ = system.ok() ? StrCat(*system, "\n", *own) : *std::move(own);
    return absl::OkStatus();
  }

  void Run() {
    while (Absorb()) {
      int running = 0;
      curl_multi_perform(multi_, &running);
      Reap();
      const Clock::time_point next = FailStalled();
      StartWaiting();
      Wait(next);
    }
    Drain();
  }

  // Takes what other threads left and runs due timers. False when the client is to stop.
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
      // A cancellation may have been taken before the request itself was.
      if (transfer->cancel.cancelled()) {
        Complete(std::move(transfer), CancelledRequest());
      } else {
        waiting_.push_back(std::move(transfer));
      }
    }
    for (const uint64_t id : cancelled) CancelTransfer(id);
    for (Timer& timer : due) {
      timer.task();
      timer.task = nullptr;
    }
    return true;
  }

  void CancelTransfer(uint64_t id) {
    const auto it = std::find_if(waiting_.begin(), waiting_.end(),
                                 [id](const auto& transfer) { return transfer->id == id; });
    if (it != waiting_.end()) {
      std::unique_ptr<Transfer> transfer = std::move(*it);
      waiting_.erase(it);
      Complete(std::move(transfer), CancelledRequest());
    } else if (active_.contains(id)) {
      Complete(Detach(id), CancelledRequest());
    }
  }

  static std::string SlotKey(const Transfer& t) {
    return StrCat(t.url.scheme, "://", t.url.host, ":", t.url.port);
  }

  // Starts waiting requests, the most urgent first, as far as the limits permit.
  void StartWaiting() {
    while (active_.size() < static_cast<size_t>(options_.max_connections)) {
      auto best = waiting_.end();
      int best_priority = 0;
      for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
        const PriorityRef& ref = (*it)->request.priority;
        const int priority = static_cast<int>(ref ? ref->get() : Priority::kForeground);
        if (best != waiting_.end() && priority >= best_priority) continue;
        const auto used = host_slots_.find(SlotKey(**it));
        if (used != host_slots_.end() && used->second >= options_.max_connections_per_host) {
          continue;
        }
        best = it;
        best_priority = priority;
      }
      if (best == waiting_.end()) return;
      std::unique_ptr<Transfer> transfer = std::move(*best);
      waiting_.erase(best);
      Launch(std::move(transfer));
    }
  }

  void Launch(std::unique_ptr<Transfer> transfer) {
    Transfer& t = *transfer;
    t.easy = curl_easy_init();
    if (t.easy == nullptr) {
      Complete(std::move(transfer), absl::ResourceExhaustedError("libcurl: out of memory"));
      return;
    }
    Configure(t);
    t.silent_since = Clock::now() + t.request.connect_timeout;
    requests_.fetch_add(1, std::memory_order_relaxed);
    ++host_slots_[SlotKey(t)];
    const uint64_t id = t.id;
    active_[id] = std::move(transfer);
    if (curl_multi_add_handle(multi_, t.easy) != CURLM_OK) {
      Complete(Detach(id), absl::InternalError("libcurl refuses the request"));
    }
  }

  void Configure(Transfer& t) {
    CURL* easy = t.easy;
    curl_easy_setopt(easy, CURLOPT_PRIVATE, &t);
    curl_easy_setopt(easy, CURLOPT_URL, t.url.text.c_str());
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    // A removed handle must not wait for a name server on this one thread.
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, options_.user_agent.c_str());
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, t.error_text);
    // Answers that are collected keep curl's own size: a small one is wiped when it is freed.
    if (t.on_headers) curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, kReceiveBufferBytes);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                     static_cast<long>(t.request.connect_timeout.count()));
    curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, &OnHeaderLine);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, &OnBody);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &t);
    if (t.url.scheme == "https") ConfigureTls(t);
    ConfigureMethod(t);
    // Offsets of a blob count bytes as they are stored, so the server must not encode them.
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
    // Rather one connection with many streams than many handshakes.
    curl_easy_setopt(easy, CURLOPT_PIPEWAIT, 1L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, t.request.verify_tls ? 1L : 0L);
    curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, t.request.verify_tls ? 2L : 0L);
    if (!t.request.verify_tls) return;
    if (!ca_folder_.empty()) curl_easy_setopt(easy, CURLOPT_CAPATH, ca_folder_.c_str());
    if (!ca_blob_.empty()) {
      curl_blob blob = {ca_blob_.data(), ca_blob_.size(), CURL_BLOB_NOCOPY};
      curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
    } else if (!ca_bundle_.empty()) {
      curl_easy_setopt(easy, CURLOPT_CAINFO, ca_bundle_.c_str());
    }
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

  // Takes an active transfer out of curl and gives its slot back.
  std::unique_ptr<Transfer> Detach(uint64_t id) {
    const auto it = active_.find(id);
    std::unique_ptr<Transfer> transfer = std::move(it->second);
    active_.erase(it);
    curl_multi_remove_handle(multi_, transfer->easy);
    long connects = 0;
    curl_easy_getinfo(transfer->easy, CURLINFO_NUM_CONNECTS, &connects);
    connections_.fetch_add(connects, std::memory_order_relaxed);
    const auto slot = host_slots_.find(SlotKey(*transfer));
    if (--slot->second == 0) host_slots_.erase(slot);
    return transfer;
  }

  // Runs Done after everything of the request but its result is gone.
  static void Complete(std::unique_ptr<Transfer> transfer, absl::StatusOr<HttpResponse> result) {
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
      } else if (code != CURLE_OK) {
        result = Explain(t, code);
      } else {
        result = std::move(t.response);
        result->url = t.url.text;
      }
      Complete(Detach(t.id), std::move(result));
    }
  }

  // Fails what has been silent for too long; returns when to look again.
  Clock::time_point FailStalled() {
    const Clock::time_point now = Clock::now();
    Clock::time_point next = Clock::time_point::max();
    std::vector<uint64_t> stalled;
    for (const auto& [id, transfer] : active_) {
      const Clock::time_point deadline = transfer->silent_since + transfer->request.stall_timeout;
      if (deadline <= now) {
        stalled.push_back(id);
      } else {
        next = std::min(next, deadline);
      }
    }
    for (const uint64_t id : stalled) {
      std::unique_ptr<Transfer> transfer = Detach(id);
      absl::Status status = MakeFailure(TransportFailure::kStalled, absl::StatusCode::kUnavailable,
                                        StrCat(transfer->url.HostPort(), " has sent nothing for ",
                                               transfer->request.stall_timeout.count(),
                                               " ms; check the network and the registry"));
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

  // Completes everything. Nothing new arrives: the inbox refuses it while stopping.
  void Drain() {
    while (!active_.empty()) Complete(Detach(active_.begin()->first), CancelledRequest());
    std::vector<std::unique_ptr<Transfer>> rest = std::move(waiting_);
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
  const std::shared_ptr<Inbox> inbox_;
  bool initialised_ = false;
  std::string ca_bundle_, ca_folder_, ca_blob_;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<uint64_t> requests_{0}, connections_{0}, bytes_received_{0};

  // The client's thread only.
  CURLM* multi_ = nullptr;
  std::vector<std::unique_ptr<Transfer>> waiting_;  // in order of arrival
  absl::flat_hash_map<uint64_t, std::unique_ptr<Transfer>> active_;
  absl::flat_hash_map<std::string, int> host_slots_;

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

}  // namespace imagefs
