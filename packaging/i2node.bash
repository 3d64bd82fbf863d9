# bash completion for i2node                                                    -*- shell-script -*-

_i2node() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} word command='' part='' skip=''
    COMPREPLY=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        if [[ $skip ]]; then
            skip=
        elif [[ $word == --home || $word == --password-file || $word == --log-format ]]; then
            skip=1
        elif [[ $word != -* && ! $command ]]; then
            command=$word
        elif [[ $word != -* && ! $part ]]; then
            part=$word
        fi
    done
    case $prev in
    --home | --allow-root)
        mapfile -t COMPREPLY < <(compgen -d -- "$cur")
        return
        ;;
    --code-file | --secret-key-file | --password-file | --exclude)
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
        return
        ;;
    --check) part='quick strict' ;;
    --log-format) part='text json' ;;
    --compress) part='auto off' ;;
    --skip) part='files all' ;;
    --require) part=all ;;
    --listen | --bwlimit) return ;;
    *)
        case $command in
        '') part='--home --help agent code pair enroll mirror status explain release refuse compare doctor controller check-config version' ;;
        agent) part='--listen --allow-root --log-format' ;;
        pair | enroll) part=--code-file ;;
        mirror) part='--once --exclude --check --compress --encrypt --no-encrypt --secret-key-file --bwlimit --adopt --require --owners --no-owners --skip --json' ;;
        compare) part='--strict --json' ;;
        status | explain | doctor) part=--json ;;
        controller)
            case $part in
            '') part='--password-file --log-format code check-config user' ;;
            user) part='list add password remove' ;;
            *) part= ;;
            esac
            ;;
        *) part= ;;
        esac
        ;;
    esac
    if [[ $cur != -* && $command =~ ^(mirror|compare|doctor|explain|check-config)$ && $prev != --* ]]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$part" -- "$cur")
    fi
}
complete -o filenames -F _i2node i2node
